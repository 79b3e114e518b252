"""Shows what a run did and learned on one page: python tools/report.py --workdir=runs/x.

python tools/report.py --workdir=runs/x
python tools/report.py --workdir=runs/x --workdir=runs/y --out=both.html
python tools/report.py --workdir=runs/tuned     # with --seeds=0,1,2 before: all of them
"""

import os
import sys

# A run that goes on has the GPU, and TensorFlow would take all of it.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow starts: its banner
from absl import app, flags, logging  # noqa: E402
from quiet_start import without_banners  # noqa: E402

FLAGS = flags.FLAGS
flags.DEFINE_multi_string(
    "workdir",
    None,
    "Folder of a run, of pre-training or fine-tuning, finished or not; several are side by side.",
)
flags.DEFINE_string(
    "out", None, "The HTML file. Default: report.html in --workdir; of several of these, say which."
)
flags.mark_flag_as_required("workdir")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument: {argv[1]}")
    logging.set_verbosity(logging.WARNING)
    # Imported late, so that --help and a wrong flag answer at once.
    with without_banners():
        from d2v_tf.errors import UserError
        from d2v_tf.training.report import report
    try:
        path = report(FLAGS.workdir, FLAGS.out, lambda line: print(f"warning: {line}"))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    print(f"report: {path}")


if __name__ == "__main__":
    app.run(main)
