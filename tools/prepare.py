"""Prepares data for pre-training: python tools/prepare.py --modality=speech --help."""

import importlib
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow starts: its banner
from absl import app, flags  # noqa: E402

# Module of each modality, imported late: its `prepare(FLAGS, console)` does the work.
PREPARE = {"speech": "d2v_tf.data.prepare_speech"}

FLAGS = flags.FLAGS
flags.DEFINE_enum("modality", None, sorted(PREPARE), "What to prepare.", required=True)
flags.DEFINE_string(
    "data", None, "What to read. Speech: folder:PATH, manifest:FILE.tsv or builtin.", required=True
)
flags.DEFINE_string("out", None, "Folder for what is written.", required=True)
flags.DEFINE_string("name", "train", "Name of the files that are written.")
flags.DEFINE_bool("tfrecord", False, "Speech: whether TFRecord shards are written, too.")
flags.DEFINE_float(
    "max_bad", 0.01, "The part of the files that may be unreadable.", lower_bound=0, upper_bound=1
)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument: {argv[1]}")
    # Imported late, so that --help and a wrong flag answer at once.
    from rich.console import Console

    from d2v_tf.errors import UserError

    try:
        importlib.import_module(PREPARE[FLAGS.modality]).prepare(
            FLAGS, Console(highlight=False, soft_wrap=True)
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    app.run(main)
