"""Prepares data for pre-training: python tools/prepare.py --modality=text --help."""

import importlib
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow starts: its banner
from absl import app, flags, logging  # noqa: E402

# Module of each modality, imported late: its `prepare(FLAGS, console)` does the work.
PREPARE = {"speech": "d2v_tf.data.prepare_speech", "text": "d2v_tf.data.prepare_text"}

FLAGS = flags.FLAGS
flags.DEFINE_enum("modality", None, sorted(PREPARE), "What to prepare.", required=True)
flags.DEFINE_string(
    "data",
    None,
    "What to read. Speech: folder:PATH, manifest:FILE.tsv or builtin. Text: text:GLOB of plain or "
    ".gz files, tfds:NAME[/CONFIG][:SPLIT], or builtin.",
    required=True,
)
flags.DEFINE_string(
    "out", None, "Folder for what is written; with --lm_order, the file.", required=True
)
flags.DEFINE_string("name", "train", "Speech: name of the files that are written.")
flags.DEFINE_bool("tfrecord", False, "Speech: whether TFRecord shards are written, too.")
flags.DEFINE_float(
    "max_bad",
    0.01,
    "Speech: the part of the files that may be unreadable.",
    lower_bound=0,
    upper_bound=1,
)
flags.DEFINE_integer(
    "connect",
    None,
    "Speech: write so many utterances of two to six connected digits, from a folder of single ones "
    "named DIGIT_SPEAKER_NUMBER.wav.",
    lower_bound=1,
)
flags.DEFINE_integer("seed", 0, "Speech: of what --connect draws.", lower_bound=0)
flags.DEFINE_integer(
    "lm_order",
    None,
    "Text: estimate an n-gram model of this order from text:GLOB, a sentence a line, and write it "
    "to the file --out, in ARPA format, and its words to words.txt beside it.",
    lower_bound=1,
)
flags.DEFINE_bool("lm_letters", False, "Text: whether that model is of letters, not of words.")
flags.DEFINE_integer("vocab_size", None, "Text: train a tokenizer of this size on the corpus.")
flags.DEFINE_string("tokenizer", None, "Text: use the tokenizer of this folder instead.")
flags.DEFINE_string("tfds_dir", None, "Text: where TFDS keeps its datasets. Default: its own.")
flags.DEFINE_integer("row_length", 512, "Text: tokens in a row.")
flags.DEFINE_integer("workers", None, "Text: processes. Default: all cores.", lower_bound=1)
flags.DEFINE_bool("resume", False, "Text: go on where an interrupted run into --out stopped.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument: {argv[1]}")
    logging.set_verbosity(logging.WARNING)
    # Imported late, so that --help and a wrong flag answer at once.
    from d2v_tf.console import open_console
    from d2v_tf.errors import UserError

    try:
        importlib.import_module(PREPARE[FLAGS.modality]).prepare(FLAGS, open_console())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        hint = "; the same command with --resume goes on" if FLAGS.modality == "text" else ""
        print(f"stopped{hint}", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    app.run(main)
