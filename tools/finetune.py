"""Fine-tunes a backbone on labelled data: python tools/finetune.py --task=classify --help."""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow starts: its banner
from absl import app, flags, logging  # noqa: E402
from quiet_start import without_banners  # noqa: E402
from stopping import end_stopped  # noqa: E402

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "finetune"

TASKS = ("classify", "tag", "ctc", "glue")

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "task", None, "classify, tag (speech), ctc (speech) or glue:NAME (text).", required=True
)
flags.DEFINE_enum(
    "modality",
    None,
    ["vision", "speech", "text"],
    "What the examples are. Default: what --config says, else what the backbone of --init is for.",
)
flags.DEFINE_string(
    "init",
    None,
    "Where the backbone comes from: a run's folder, a preset, a Hugging Face folder, a published "
    "checkpoint, or scratch.",
    required=True,
)
flags.DEFINE_string(
    "config",
    None,
    "Recipe, a YAML file. Default: configs/finetune/MODALITY_tiny.yaml, or TASK_tiny.yaml.",
)
flags.DEFINE_string("data", None, "The labelled examples to train on. Default: the recipe's.")
flags.DEFINE_string(
    "eval_data", None, "The ones to measure on. Default: the recipe's, or every fifth of --data."
)
flags.DEFINE_string("workdir", None, "Folder of the run. Default: runs/TASK_RECIPE_INIT.")
flags.DEFINE_enum(
    "strategy",
    "auto",
    ["auto", "cpu", "mirrored"],
    "Where it is computed. auto: all GPUs of this machine, else its CPU; cpu; mirrored.",
)
flags.DEFINE_float("label_fraction", None, "The part of the training labels that is used.")
flags.DEFINE_list("seeds", None, "Several runs, one a seed, as in 0,1,2, and their mean.")
flags.DEFINE_multi_string(
    "set", [], "A key of the recipe, as in --set optimizer.learning_rate=0.001; may be repeated."
)


flags.DEFINE_bool("quiet", False, "Print nothing but warnings and what comes at the end.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument: {argv[1]}")
    logging.set_verbosity(logging.WARNING)  # TensorFlow notes each checkpoint's inner workings
    with without_banners():
        # Imported late, so that --help and a wrong flag answer at once.
        from d2v_tf.errors import UserError

        try:
            finetune()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except KeyboardInterrupt:  # before there is a run to continue
            sys.exit(130)


def finetune():
    from d2v_tf.console import open_console
    from d2v_tf.training.finetune_seeds import finetune_seeds
    from d2v_tf.training.strategy import open_replicas

    modality, config = choose_recipe()
    replicas = open_replicas(FLAGS.strategy)
    start = Path(FLAGS.init).absolute()
    start = start.parent.name if start.name == "preset" else start.name
    workdir = FLAGS.workdir or os.path.join(
        "runs", f"{FLAGS.task.replace(':', '_')}_{Path(config).stem}_{start}"
    )
    overrides = [f"task={FLAGS.task}", *FLAGS.set, f"init={json.dumps(FLAGS.init)}"]
    for key, value in (
        ("data.source", FLAGS.data),
        ("data.eval_source", FLAGS.eval_data),
        ("label_fraction", FLAGS.label_fraction),
    ):
        if value is not None:
            overrides.append(f"{key}={json.dumps(value)}")  # YAML would read on in it
    try:
        finetune_seeds(
            config, overrides, modality, workdir, FLAGS.seeds, open_console(), FLAGS.quiet, replicas
        )
    except KeyboardInterrupt as stopped:
        end_stopped(stopped, workdir)


def choose_recipe():
    """The modality, and the recipe's file."""
    from d2v_tf.config import modality_in
    from d2v_tf.errors import UserError
    from d2v_tf.training.finetune_seeds import modality_of_start

    task, modality = FLAGS.task.split(":")[0], FLAGS.modality
    if task not in TASKS:
        raise UserError(f"--task={FLAGS.task} is not one of {', '.join(TASKS)} (as in glue:RTE).")
    if FLAGS.config:
        modality = modality or modality_in(FLAGS.config)
    modality = modality or modality_of_start(FLAGS.init, task)
    name = f"{modality}_ctc_tiny" if task == "ctc" else f"{modality}_tiny"
    return modality, FLAGS.config or str(CONFIGS / f"{name}.yaml")


if __name__ == "__main__":
    app.run(main)
