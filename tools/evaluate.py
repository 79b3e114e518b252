"""Measures and uses models: python tools/evaluate.py --help.

python tools/evaluate.py --model=runs/x --data=folder:photos/test --out=report
python tools/evaluate.py --model=runs/rte --task=glue:RTE --data=folder:glue
python tools/evaluate.py --model=runs/x --predict a.jpg b.jpg
python tools/evaluate.py --model=runs/x --data=folder:photos --features=photos.npz
python tools/evaluate.py --model=runs/x --probe --train_data=folder:train --data=folder:test
"""

import dataclasses
import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow starts: its banner
from absl import app, flags, logging  # noqa: E402

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
    "table:FILE.tsv. Instead, files may be named one by one.",
)
flags.DEFINE_string("label", None, "Which of several kinds of labels of recordings.")
flags.DEFINE_string(
    "columns",
    None,
    "Of a table of texts, if it is not sentence,label: SENTENCE,LABEL or FIRST,SECOND,LABEL; "
    "numbers from 0 where its first line is no line of names.",
)
flags.DEFINE_string(
    "task", None, "glue:NAME: measure on this task of GLUE, by its own metrics; --data=folder:GLUE."
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
    "max_bad", 0.01, "The part of the examples that may be unreadable.", lower_bound=0.0
)
flags.DEFINE_integer("num_worst", 10, "How many of the worst examples are named.", lower_bound=0)
flags.DEFINE_string("out", None, "Folder for evaluation.json and confusion.png.")
flags.DEFINE_bool("json", False, "Print one JSON object.")


def main(argv):
    logging.set_verbosity(logging.WARNING)
    # Imported late, so that --help and a wrong flag answer at once.
    from d2v_tf.errors import UserError

    try:
        evaluate(argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def evaluate(files):
    from rich.console import Console

    from d2v_tf.errors import UserError

    if bool(files) == bool(FLAGS.data):
        raise UserError("Name the examples by --data=SOURCE, or files one by one.")
    if sum([FLAGS.predict, FLAGS.features is not None, FLAGS.probe]) > 1:
        raise UserError("--predict, --features and --probe: one at a time.")
    if FLAGS.probe != (FLAGS.train_data is not None):
        raise UserError("--probe and --train_data: each needs the other.")

    import d2v_tf

    preprocessing = d2v_tf.load_preprocessing(FLAGS.model)
    needs_head = not (FLAGS.features or FLAGS.probe)
    if needs_head:
        model = d2v_tf.load_task(FLAGS.model, verbose=not FLAGS.json)
        backbone = model.backbone
    else:
        model = backbone = d2v_tf.load_backbone(FLAGS.model, verbose=not FLAGS.json)
    console = Console(highlight=False, soft_wrap=True, stderr=FLAGS.json)
    options = {
        "batch_size": FLAGS.batch,
        "max_bad": FLAGS.max_bad,
        "warn": lambda line: console.print(f"warning: {line}", markup=False),
    }
    if FLAGS.task:
        if files or not needs_head or FLAGS.predict:
            raise UserError("--task is for measuring: with --model and --data alone.")
        examples, options["metrics"] = open_glue(FLAGS.task)
        measure(model, preprocessing, [examples], options, console)
        return
    sources = [open_source(model, backbone, spec) for spec in files or [FLAGS.data]]
    if FLAGS.features:
        save_features(backbone, preprocessing, sources, options, console)
    elif FLAGS.probe:
        probe(backbone, preprocessing, sources, options, console)
    elif FLAGS.predict:
        predict(model, preprocessing, sources, options)
    else:
        measure(model, preprocessing, sources, options, console)


def open_glue(task):
    from d2v_tf.errors import UserError
    from d2v_tf.evaluation.examples import open_glue_examples

    kind, _, name = task.partition(":")
    if kind != "glue" or not name:
        raise UserError(f"--task={task}: give glue:NAME, such as glue:RTE.")
    return open_glue_examples(name, FLAGS.data)


def open_source(model, backbone, spec):
    from d2v_tf.data.labelled_sources import Columns
    from d2v_tf.errors import UserError
    from d2v_tf.evaluation.examples import open_examples

    columns = None
    if FLAGS.columns:
        names = FLAGS.columns.split(",")
        if len(names) not in (2, 3):
            raise UserError(
                f"--columns={FLAGS.columns}: give SENTENCE,LABEL or FIRST,SECOND,LABEL."
            )
        names = [int(name) if name.isdigit() else name for name in names]
        columns = Columns(names[0], names[1] if len(names) == 3 else None, names[-1])
    if getattr(model, "num_classes", None) == 1 and not getattr(model, "multi_label", False):
        columns = dataclasses.replace(columns or Columns(), regression=True)
    return open_examples(backbone, spec, label=FLAGS.label, columns=columns)


def open_decoder(model):
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
    )


def measure(model, preprocessing, sources, options, console):
    from d2v_tf.errors import UserError
    from d2v_tf.evaluation.measure import measure
    from d2v_tf.evaluation.reports import print_measurement, write_measurement

    if len(sources) > 1 or not FLAGS.data:
        raise UserError("Files have no labels to measure with: add --predict, or name --data.")
    found = measure(
        model,
        preprocessing,
        sources[0],
        num_worst=FLAGS.num_worst,
        decode=open_decoder(model),
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
    from d2v_tf.evaluation.predictions import predict_examples

    decode = open_decoder(model)
    for examples in sources:
        for name, said in predict_examples(
            model, preprocessing, examples, decode=decode, **options
        ):
            if FLAGS.json:
                print(json.dumps({"name": name, **said}, ensure_ascii=False))
            else:
                print("\t".join([name, *map(as_text, said.values())]))


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


def probe(backbone, preprocessing, sources, options, console):
    from d2v_tf.evaluation.features import probe_backbone

    train = open_source(backbone, backbone, FLAGS.train_data)
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
