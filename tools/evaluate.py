"""Measures and uses models: python tools/evaluate.py --help.

python tools/evaluate.py --model=runs/x --data=folder:photos/test --out=report
python tools/evaluate.py --model=runs/rte --task=glue:RTE --data=folder:glue
python tools/evaluate.py --model=runs/x --predict a.jpg b.jpg
python tools/evaluate.py --model=runs/sentiment --predict --data=text:sentences.txt
python tools/evaluate.py --model=runs/x --data=folder:photos --features=photos.npz
python tools/evaluate.py --model=runs/x --probe --train_data=folder:train --data=folder:test
"""

import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow starts: its banner
from absl import app, flags, logging  # noqa: E402
from quiet_start import without_banners  # noqa: E402

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "model",
    None,
    "A run's folder, a preset, or a Hugging Face folder; for --features and --probe also without a "
    "head.",
    required=True,
)
flags.DEFINE_string(
    "data",
    None,
    "The examples: a SOURCE as for training, such as folder:PATH, manifest:FILE.tsv or "
    "table:FILE.tsv; for --predict and --features of texts also text:FILE, a text a line. Instead, "
    "files may be named one by one, and texts be given.",
)
flags.DEFINE_string(
    "label",
    None,
    "Which of several kinds of labels of recordings. Default: for a tagger the tags, where there "
    "are some; else the first kind of classes.",
)
flags.DEFINE_string(
    "columns",
    None,
    "Of a table of texts, if it is not sentence,label: SENTENCE,LABEL or FIRST,SECOND,LABEL; "
    "numbers from 0 where its first line is no line of names. For --predict and --features LABEL "
    "is not read, and may be left empty: FIRST,SECOND,",
)
flags.DEFINE_string(
    "task", None, "glue:NAME: measure on this task of GLUE, by its own metrics; --data=folder:GLUE."
)
flags.DEFINE_string(
    "split",
    None,
    "With --task: what is measured on, such as dev_mismatched of MNLI. Default: the first one.",
)
flags.DEFINE_bool("predict", False, "Say what the model says about each example.")
flags.DEFINE_string("features", None, "A .npz file for the features of each example.")
flags.DEFINE_bool(
    "per_position", False, "With --features: one vector a patch, frame or token, not their mean."
)
flags.DEFINE_bool("probe", False, "Measure the frozen features: nearest neighbors, and linear.")
flags.DEFINE_string("train_data", None, "With --probe: the examples that the probes learn from.")
flags.DEFINE_integer(
    "beam_size",
    1,
    "Speech recognition: hypotheses that are kept; 1 decodes greedily.",
    lower_bound=1,
)
flags.DEFINE_string("lm", None, "With --beam_size: an n-gram model, an ARPA or KenLM file.")
flags.DEFINE_string("words", None, "With --beam_size: a file of the words that can be heard.")
flags.DEFINE_float("lm_weight", 2.0, "With --lm: the weight of the model.")
flags.DEFINE_float("word_score", 0.0, "With --beam_size: added for every word.")
flags.DEFINE_integer("batch", 32, "Examples at a time.", lower_bound=1)
flags.DEFINE_float(
    "max_bad",
    0.01,
    "The part of the examples that may be unreadable, or bad lines of a table; they are left out.",
    lower_bound=0.0,
)
flags.DEFINE_integer("num_worst", 10, "How many of the worst examples are named.", lower_bound=0)
flags.DEFINE_string("out", None, "Folder for evaluation.json and confusion.png.")
flags.DEFINE_bool("json", False, "Print one JSON object.")


def main(argv):
    logging.set_verbosity(logging.WARNING)
    # Imported late, so that --help and a wrong flag answer at once.
    with without_banners():
        from d2v_tf.errors import UserError

    try:
        evaluate(argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def evaluate(files):
    from d2v_tf.console import open_console

    check_flags(files)
    with without_banners():
        import tensorflow as tf

        import d2v_tf

        tf.config.list_logical_devices()  # what TensorFlow says of its devices, it says once

    preprocessing = d2v_tf.load_preprocessing(FLAGS.model)
    needs_head = not (FLAGS.features or FLAGS.probe)
    if needs_head:
        model = d2v_tf.load_task(FLAGS.model, verbose=not FLAGS.json)
    else:
        model = d2v_tf.load_backbone(FLAGS.model, verbose=not FLAGS.json)
    console = open_console(stderr=FLAGS.json)
    reading = {
        "max_bad": FLAGS.max_bad,
        "warn": lambda line: console.print(f"warning: {line}", markup=False),
    }
    options = {"batch_size": FLAGS.batch, **reading}
    if FLAGS.task:
        examples, options["metrics"] = open_glue(model, FLAGS.task, reading)
        measure(model, preprocessing, [examples], options, console)
        return
    sources = [open_source(model, spec, reading) for spec in files or [FLAGS.data]]
    if FLAGS.features:
        save_features(model, preprocessing, sources, options, console)
    elif FLAGS.probe:
        train = open_source(model, FLAGS.train_data, reading)
        probe(model, preprocessing, train, sources, options, console)
    elif FLAGS.predict:
        predict(model, preprocessing, sources, options)
    else:
        measure(model, preprocessing, sources, options, console)


def check_flags(files):
    """Refuses flags that do not go together, before anything is loaded."""
    from d2v_tf.errors import UserError

    if bool(files) == bool(FLAGS.data):
        raise UserError("Name the examples by --data=SOURCE, or files one by one.")
    if sum([FLAGS.predict, FLAGS.features is not None, FLAGS.probe]) > 1:
        raise UserError("--predict, --features and --probe: one at a time.")
    if FLAGS.probe != (FLAGS.train_data is not None):
        raise UserError("--probe and --train_data: each needs the other.")
    if FLAGS.task and (files or FLAGS.predict or FLAGS.features or FLAGS.probe):
        raise UserError("--task is for measuring: with --model and --data alone.")
    if FLAGS.split and not FLAGS.task:
        raise UserError("--split is of a task of GLUE: add --task=glue:NAME.")


def open_glue(model, task, reading):
    from d2v_tf.errors import UserError
    from d2v_tf.evaluation.examples import open_glue_examples
    from d2v_tf.interop.run_recipe import answers_pairs

    kind, _, name = task.partition(":")
    if kind != "glue" or not name:
        raise UserError(f"--task={task}: give glue:NAME, such as glue:RTE.")
    return open_glue_examples(
        name, FLAGS.data, FLAGS.split, pairs=answers_pairs(model, FLAGS.model), **reading
    )


def open_source(model, spec, reading):
    """The examples of a `SOURCE` or a file, as the model's run read its own."""
    from d2v_tf.evaluation.examples import open_examples
    from d2v_tf.evaluation.labels import is_multi_label
    from d2v_tf.interop.run_recipe import answers_pairs, measured_seconds

    backbone = getattr(model, "backbone", model)
    options = {"label": FLAGS.label, "columns": open_columns(model), **reading}
    if model is not backbone:  # features are of whole recordings, and of any texts
        options["multi_label"] = is_multi_label(model)
        options["max_seconds"] = measured_seconds(FLAGS.model)
        options["pairs"] = answers_pairs(model, FLAGS.model)
    return open_examples(backbone, spec, **options)


def open_columns(model):
    """Where in a table of texts they stand, and their labels if any are needed."""
    from d2v_tf.data.labelled_text import Columns
    from d2v_tf.errors import UserError
    from d2v_tf.evaluation.labels import is_regression

    needs_label = not (FLAGS.predict or FLAGS.features)
    names = FLAGS.columns.split(",") if FLAGS.columns else ["sentence", "label"]
    if len(names) == 1 and not needs_label:
        names.append("")
    texts, label = names[:-1], names[-1]
    if len(texts) not in (1, 2) or not all(texts) or (needs_label and not label):
        form = "SENTENCE,LABEL or FIRST,SECOND,LABEL"
        if not needs_label:
            form += "; without LABEL SENTENCE, or FIRST,SECOND, with a comma behind it"
        raise UserError(f"--columns={FLAGS.columns}: give {form}.")
    *texts, label = (int(name) if name.isdigit() else name for name in names)
    return Columns(*texts, label=label if needs_label else None, regression=is_regression(model))


def open_decoder(model, warn):
    """The beam search that the flags ask for, or `None`."""
    from d2v_tf.errors import UserError
    from d2v_tf.finetuning.ctc import Data2VecSpeechCTC
    from d2v_tf.finetuning.decoding import BeamSearchDecoder

    if FLAGS.beam_size == 1:
        if FLAGS.lm or FLAGS.words:
            raise UserError("--lm and --words need a beam search, such as --beam_size=100.")
        return None
    if not isinstance(model, Data2VecSpeechCTC):
        raise UserError(f"--beam_size is for speech recognition; {FLAGS.model} is none.")
    words = None
    if FLAGS.words:
        try:
            with open(FLAGS.words, encoding="utf-8") as file:
                words = file.read().split()
        except OSError as error:
            raise UserError(f"--words={FLAGS.words} cannot be read ({error.strerror}).") from None
    return BeamSearchDecoder(
        model.vocabulary,
        words=words,
        language_model=FLAGS.lm,
        lm_weight=FLAGS.lm_weight,
        word_score=FLAGS.word_score,
        beam_size=FLAGS.beam_size,
        warn=warn,
    )


def measure(model, preprocessing, sources, options, console):
    from d2v_tf.errors import UserError
    from d2v_tf.evaluation.measure import measure
    from d2v_tf.evaluation.reports import print_measurement, write_measurement
    from d2v_tf.interop.run_recipe import training_source

    if len(sources) > 1 or not FLAGS.data:
        raise UserError("Files have no labels to measure with: add --predict, or name --data.")
    if FLAGS.task is None and training_source(FLAGS.model) == FLAGS.data:
        options["warn"](
            f"the model was trained on {FLAGS.data}: what it scores there says little. The run "
            "itself measured what it held out, in evaluations.jsonl."
        )
    found = measure(
        model,
        preprocessing,
        sources[0],
        num_worst=FLAGS.num_worst,
        decode=open_decoder(model, options["warn"]),
        **options,
    )
    if FLAGS.json:
        print(json.dumps({"scores": found.scores, "intervals": found.intervals}))
    else:
        print_measurement(found, console)
    if FLAGS.out:
        for path in write_measurement(found, FLAGS.out):
            console.print(path)


def predict(model, preprocessing, sources, options):
    from d2v_tf.errors import UserError
    from d2v_tf.evaluation.predictions import predict_examples

    decode = open_decoder(model, options["warn"])
    failed = False
    for examples in sources:
        try:
            for name, said in predict_examples(
                model, preprocessing, examples, decode=decode, **options
            ):
                if FLAGS.json:
                    print(json.dumps({"name": name, **said}, ensure_ascii=False))
                else:
                    print("\t".join([name, *map(as_text, said.values())]))
        except UserError as error:
            if len(sources) == 1:
                raise
            print(f"error: {error}", file=sys.stderr)  # the other files have answers
            failed = True
    if failed:
        sys.exit(1)


def as_text(value):
    if isinstance(value, dict):
        return ", ".join(f"{name} {number:.3f}" for name, number in value.items()) or "-"
    return value if isinstance(value, str) else f"{value:.4g}"


def save_features(backbone, preprocessing, sources, options, console):
    import numpy as np

    from d2v_tf.errors import UserError
    from d2v_tf.evaluation.features import extract_features

    names, features = [], []
    for examples in sources:
        indices, found = extract_features(
            backbone, preprocessing, examples, FLAGS.per_position, **options
        )
        names += [examples.names[i] for i in indices]
        features += found
    arrays = {"names": np.array(names)}
    if FLAGS.per_position:
        # One array of all positions, and where each example's begin and end in it.
        arrays["features"] = np.concatenate(features)
        arrays["row_splits"] = np.cumsum([0, *map(len, features)])
    else:
        arrays["features"] = np.stack(features)
    try:
        with open(FLAGS.features, "wb") as file:
            np.savez(file, **arrays)
    except OSError as error:
        raise UserError(f"--features={FLAGS.features}: {error.strerror}.") from None
    shape = " x ".join(map(str, arrays["features"].shape))
    console.print(f"{FLAGS.features}: features {shape} of {len(names):,} examples")


def probe(backbone, preprocessing, train, sources, options, console):
    from d2v_tf.evaluation.features import probe_backbone

    scores = probe_backbone(backbone, preprocessing, train, sources[0], **options)
    if FLAGS.json:
        print(json.dumps(scores))
        return
    console.print(
        f"kNN {100 * scores['knn']:.1f}%, linear {100 * scores['linear']:.1f}% of "
        f"{scores['test_examples']:,} test examples, learned from {scores['train_examples']:,}"
    )


if __name__ == "__main__":
    app.run(main)
