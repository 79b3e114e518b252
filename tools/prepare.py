"""Prepares a corpus for pre-training: python tools/prepare.py --modality=text --help."""

import importlib
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow starts: its banner
from absl import app, flags  # noqa: E402

# Module of each modality, imported late: its `prepare(FLAGS, console)` does the work.
PREPARE = {"text": "d2v_tf.data.prepare_text"}

FLAGS = flags.FLAGS
flags.DEFINE_enum("modality", None, sorted(PREPARE), "What the corpus is.", required=True)
flags.DEFINE_string(
    "data", None, "The corpus. Text: builtin, or text:GLOB of plain or .gz files.", required=True
)
flags.DEFINE_string("out", None, "Folder for the result.", required=True)
flags.DEFINE_integer("workers", None, "Processes. Default: all cores.", lower_bound=1)
flags.DEFINE_bool("resume", False, "Go on where an interrupted run into --out stopped.")
flags.DEFINE_integer("vocab_size", None, "Text: train a tokenizer of this size on the corpus.")
flags.DEFINE_string("tokenizer", None, "Text: use the tokenizer of this folder instead.")
flags.DEFINE_integer("row_length", 512, "Text: tokens in a row.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument: {argv[1]}")
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
        print("stopped; the same command with --resume goes on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    app.run(main)
