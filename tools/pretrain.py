"""Pre-trains a data2vec backbone: python tools/pretrain.py --modality=vision --help."""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow starts: its banner
from absl import app, flags, logging  # noqa: E402
from quiet_start import without_banners  # noqa: E402
from stopping import end_stopped  # noqa: E402

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "pretrain"

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "modality", None, ["vision", "speech", "text"], "What to pre-train on.", required=True
)
flags.DEFINE_string(
    "config", None, "Recipe, a YAML file. Default: configs/pretrain/MODALITY_tiny.yaml."
)
flags.DEFINE_string(
    "data",
    None,
    "Where the examples come from: builtin, folder:PATH, manifest:FILE.tsv (speech), text:GLOB "
    "(text), tfds:NAME[/CONFIG][:SPLIT] (vision, speech) or tfrecord:GLOB_OR_PATH. Default: what "
    "the recipe says.",
)
flags.DEFINE_string(
    "init",
    None,
    "Weights to start from: a finished run's or a preset folder, a local Hugging Face folder, or a "
    "file of fairseq (.pt) or BEiT (.pth). Default: what the recipe says, else random ones. A run "
    "that has a checkpoint goes on from it.",
)
flags.DEFINE_string("workdir", None, "Folder of the run. Default: runs/NAME_OF_THE_RECIPE.")
flags.DEFINE_string(
    "strategy",
    "auto",
    "Where it is computed. auto: all GPUs of this machine, else its CPU; cpu; mirrored: at least "
    "two GPUs; multiworker: the processes that TF_CONFIG or Slurm names; tpu or tpu:ADDRESS.",
)
flags.DEFINE_list(
    "data_service",
    [],
    "Where tools/serve_data.py decodes images or text for this run: grpc://HOST:PORT, several with "
    "commas between.",
)
flags.DEFINE_multi_string(
    "set", [], "A key of the recipe, as in --set optimizer.learning_rate=0.001; may be repeated."
)
flags.DEFINE_bool("quiet", False, "Print nothing but warnings and what comes at the end.")
flags.DEFINE_string(
    "profile", None, "FIRST:LAST, updates that TensorFlow's profiler looks at, such as 100:110."
)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument: {argv[1]}")
    logging.set_verbosity(logging.WARNING)  # TensorFlow notes each checkpoint's inner workings
    config = FLAGS.config or str(CONFIGS / f"{FLAGS.modality}_tiny.yaml")
    workdir = FLAGS.workdir or os.path.join("runs", Path(config).stem)
    with without_banners():
        try:
            pretrain(config, workdir)
        except KeyboardInterrupt:  # before there is a run to continue
            sys.exit(130)


def pretrain(config, workdir):
    # Imported late, so that --help and a wrong flag answer at once.
    import dataclasses

    from d2v_tf.config import load_recipe, published_batch_size
    from d2v_tf.console import open_console
    from d2v_tf.errors import UserError

    overrides = list(FLAGS.set)
    if FLAGS.data:
        overrides.append(f"data.source={json.dumps(FLAGS.data)}")  # YAML would read on in it
    if FLAGS.init:
        overrides.append(f"init={json.dumps(FLAGS.init)}")
    try:
        recipe = load_recipe(config, overrides, FLAGS.modality)
        from d2v_tf.data.service import open_services
        from d2v_tf.training import pretrain
        from d2v_tf.training.strategy import open_replicas

        services = open_services(FLAGS.data_service)
        replicas = dataclasses.replace(open_replicas(FLAGS.strategy), services=services)
        try:
            pretrain.pretrain(
                recipe,
                workdir,
                open_console(),
                published_batch_size(config),
                replicas,
                FLAGS.quiet,
                FLAGS.profile,
            )
        except KeyboardInterrupt as stopped:
            end_stopped(stopped, workdir)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    app.run(main)
