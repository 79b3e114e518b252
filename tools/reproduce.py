"""Measures what pre-training is worth: python tools/reproduce.py --help.

python tools/reproduce.py --archives=ARCHIVES --data=data --workdir=runs/reproduce
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow starts: its banner
from absl import app, flags, logging  # noqa: E402
from quiet_start import without_banners  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent

FLAGS = flags.FLAGS
flags.DEFINE_string("plan", str(ROOT / "configs" / "reproduce.yaml"), "The experiments, YAML.")
flags.DEFINE_string(
    "archives", None, "Folder with the archives of the sets. Not needed once they are unpacked."
)
flags.DEFINE_string("data", "data", "Folder for the sets, unpacked and arranged.")
flags.DEFINE_string("workdir", "runs/reproduce", "Folder for all runs and the table.")
flags.DEFINE_multi_string(
    "run",
    [],
    "MODALITY=FOLDER: a pre-training run to start from, where none is to be made; may be repeated.",
)
flags.DEFINE_list("only", None, "Names of the experiments to run. Default: all of the plan.")
flags.DEFINE_list("seeds", ["0", "1", "2"], "The seeds of each experiment.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument: {argv[1]}")
    logging.set_verbosity(logging.WARNING)  # TensorFlow notes each checkpoint's inner workings
    with without_banners():  # those of the processes of all runs, too
        start()


def start():
    # Imported late, so that --help and a wrong flag answer at once.
    from d2v_tf.errors import UserError

    try:
        reproduce()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as stopped:
        print("stopped; the same command goes on", file=sys.stderr)
        sys.exit(getattr(stopped, "exit_status", 130))


def reproduce():
    from d2v_tf.console import open_console
    from d2v_tf.errors import UserError
    from d2v_tf.training.reproduce import choose, read_plan, reproduce
    from d2v_tf.training.reproduction_sets import arrange_sets

    runs = {}
    for value in FLAGS.run:
        modality, is_there, folder = value.partition("=")
        if modality not in ("vision", "speech", "text") or not is_there:
            raise UserError(f"--run={value}: give vision=FOLDER, speech=FOLDER or text=FOLDER.")
        if not os.path.isdir(os.path.join(folder, "preset")):
            raise UserError(f"--run={value}: {folder} is no folder of a finished run.")
        runs[modality] = os.path.abspath(folder)
    workdir, data = os.path.abspath(FLAGS.workdir), os.path.abspath(FLAGS.data)
    archives = FLAGS.archives and os.path.abspath(FLAGS.archives)
    path = os.path.abspath(FLAGS.plan)
    os.chdir(ROOT)  # the plan's recipes are named from here
    plan = read_plan(path, data)
    experiments = choose(plan, FLAGS.only)
    console = open_console()
    backbones = {m: plan["backbones"][m] for m in {e["modality"] for e in experiments.values()}}
    # Of a run that is there, what the other arm has from its data, such as a tokenizer.
    read = [b.get("scratch") if m in runs else b for m, b in backbones.items()]
    needed = json.dumps([experiments, read], ensure_ascii=False)
    arrange_sets(archives, data, lambda name: f"{data}/{name}" in needed, console)
    console.print(reproduce(plan, experiments, workdir, runs, FLAGS.seeds, console), markup=False)


if __name__ == "__main__":
    app.run(main)
