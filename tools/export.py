"""Exports a model for TensorFlow Serving: python tools/export.py --from=runs/x --to=served/x.

python tools/export.py --from=runs/x --to=served/x
python tools/export.py --check=served/x
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow starts: its banner
from absl import app, flags, logging  # noqa: E402

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
    "version", None, "Default: one more than the highest that is there.", lower_bound=1
)
flags.DEFINE_enum("precision", "float32", ["float32", "bfloat16"], "What the model computes in.")
flags.DEFINE_bool(
    "pairs", None, "Text: whether requests are pairs. Default: as the run was fine-tuned."
)
flags.DEFINE_bool("warmup", True, "Whether to write requests for the server to warm up with.")
flags.DEFINE_string(
    "check", None, "Instead: a model's folder, to be looked through as a server would."
)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument: {argv[1]}")
    source = FLAGS["from"].value
    if (FLAGS.check is None) == (source is None) or (source is None) != (FLAGS.to is None):
        raise app.UsageError("give --from and --to, or --check")
    logging.set_verbosity(logging.WARNING)
    if FLAGS.check is not None:
        check(FLAGS.check)
        return
    # Imported late, so that --help and a wrong flag answer at once.
    from d2v_tf.errors import UserError
    from d2v_tf.exporting.export import export, load_model
    from d2v_tf.exporting.other_formats import export_file

    try:
        if FLAGS.format != "saved_model":
            export_file(load_model(source, FLAGS.precision, print), FLAGS.to, FLAGS.format)
            print(f"{FLAGS.to}: written")
            return
        path = export(
            source,
            FLAGS.to,
            version=FLAGS.version,
            precision=FLAGS.precision,
            pairs=FLAGS.pairs,
            warmup=FLAGS.warmup,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    print(f"{path}: written; --check={FLAGS.to} looks whether a server can load it")


def check(folder):
    from serving.check import check_model

    problems = check_model(folder)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        sys.exit(1)


if __name__ == "__main__":
    app.run(main)
