"""Converts weights: python tools/convert.py --from=data2vec-vision-base --to=preset --help."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow starts: its banner
from absl import app, flags, logging  # noqa: E402
from quiet_start import without_banners  # noqa: E402

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "from",
    None,
    "What to read: a preset folder, a finished run's folder, a local Hugging Face folder of type "
    "data2vec-vision, data2vec-audio or data2vec-text, or a file of fairseq's data2vec audio or "
    "text (.pt) or BEiT's data2vec vision (.pth). A folder's head comes along; what else is in a "
    "file, such as a teacher, is named and left out.",
    required=True,
)
flags.DEFINE_string("to", None, "Folder for what is written; new or empty.", required=True)
flags.DEFINE_enum("format", "preset", ["preset", "huggingface"], "What to write.")
flags.DEFINE_integer(
    "image_size",
    None,
    "Vision: resize the position tables for square images of so many pixels a side.",
    lower_bound=1,
)
flags.DEFINE_bool("head", True, "Whether a head comes along; --nohead leaves it out.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument: {argv[1]}")
    logging.set_verbosity(logging.WARNING)
    with without_banners():
        # Imported late, so that --help and a wrong flag answer at once.
        from d2v_tf.errors import UserError
        from d2v_tf.interop.convert import convert

        try:
            convert(FLAGS["from"].value, FLAGS.to, FLAGS.format, FLAGS.image_size, FLAGS.head)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)


if __name__ == "__main__":
    app.run(main)
