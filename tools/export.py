"""Exports a model for TensorFlow Serving: python tools/export.py --from=runs/x --to=served/x.

python tools/export.py --from=runs/x --to=served/x
python tools/export.py --check=served/x
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow starts: its banner
from absl import app, flags, logging  # noqa: E402
from quiet_start import without_banners  # noqa: E402

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "from",
    None,
    "What to read: a run's folder, a preset, a fine-tuned model, or what else tools/convert.py "
    "reads.",
)
flags.DEFINE_string("to", None, "Folder of the model on the server; versions are folders in it.")
flags.DEFINE_enum(
    "format",
    "saved_model",
    ["saved_model", "litert", "onnx"],
    "What to write. LiteRT (images only) and ONNX: --to is a file, and nothing in it makes the "
    "model's input.",
)
flags.DEFINE_integer(
    "version",
    None,
    "Default: one more than the highest that is there; of --check, the highest.",
    lower_bound=1,
)
flags.DEFINE_enum("precision", "float32", ["float32", "bfloat16"], "What the model computes in.")
flags.DEFINE_bool(
    "pairs", None, "Text: whether requests are pairs. Default: as the model was fine-tuned."
)
flags.DEFINE_string(
    "preprocessing",
    None,
    "A folder with what makes the model's input, of a --from that has none: a run, a preset, a "
    "Hugging Face folder of data2vec, or of texts one with a tokenizer.",
)
flags.DEFINE_float(
    "max_seconds", None, "Speech: the longest waveform that is answered. Default: 60.", 0.0
)
flags.DEFINE_bool("warmup", True, "Whether to write requests for the server to warm up with.")
flags.DEFINE_string(
    "check", None, "Instead: a model's folder, to be looked through as a server would."
)
# What has no meaning in a file, which holds the model alone.
ONLY_SAVED_MODEL = ("version", "pairs", "preprocessing", "max_seconds", "warmup")
EXPORTING = ("format", "precision", "pairs", "preprocessing", "max_seconds", "warmup")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument: {argv[1]}")
    source = FLAGS["from"].value
    if (FLAGS.check is None) == (source is None) or (source is None) != (FLAGS.to is None):
        raise app.UsageError("give --from and --to, or --check")
    useless = [name for name in ONLY_SAVED_MODEL if FLAGS[name].present]
    if FLAGS.format != "saved_model" and useless:
        raise app.UsageError(f"--{useless[0]} is of no use to --format={FLAGS.format}")
    useless = [name for name in EXPORTING if FLAGS[name].present]
    if FLAGS.check is not None and useless:
        raise app.UsageError(f"--{useless[0]} is of no use to --check")
    logging.set_verbosity(logging.WARNING)
    if FLAGS.check is not None:
        with without_banners():
            check(FLAGS.check, FLAGS.version)
        return
    # Imported late, so that --help and a wrong flag answer at once.
    with without_banners():
        import tensorflow as tf

        from d2v_tf.errors import UserError
        from d2v_tf.exporting.export import export
        from d2v_tf.exporting.other_formats import export_file

        tf.config.list_logical_devices()  # what TensorFlow says of its devices, it says once

    try:
        if FLAGS.format != "saved_model":
            export_file(source, FLAGS.to, FLAGS.format, FLAGS.precision)
            print(f"{FLAGS.to}: written")
            return
        path = export(
            source,
            FLAGS.to,
            preprocessing=FLAGS.preprocessing,
            version=FLAGS.version,
            precision=FLAGS.precision,
            pairs=FLAGS.pairs,
            max_seconds=FLAGS.max_seconds,
            warmup=FLAGS.warmup,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    print(f"{path}: written; --check={FLAGS.to} looks whether a server can load it")


def check(folder, version):
    from serving.check import check_model

    problems = check_model(folder, version)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        sys.exit(1)


if __name__ == "__main__":
    app.run(main)
