"""One fine-tuning run, from a backbone and a recipe to a task model with its best weights."""

import contextlib
import inspect
import math
import os
from pathlib import Path

import keras
import tensorflow as tf
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from d2v_tf.backbones.speech_frontend import WaveformFrontend
from d2v_tf.config import load_recipe
from d2v_tf.errors import UserError
from d2v_tf.finetuning.freezing import FreezeBackbone
from d2v_tf.finetuning.optimizer import LayerwiseAdamW, lr_scales
from d2v_tf.interop.loading import load_with_report, on_backbone
from d2v_tf.interop.preprocessing import load_preprocessing
from d2v_tf.pretraining.replicas import predict_on_one_device, replica_scope
from d2v_tf.schema.common import COMPILERS
from d2v_tf.schema.finetune import Freeze, duration_problems, resolve_durations
from d2v_tf.training.checkpointer import Checkpointer
from d2v_tf.training.checkpoints import Checkpoints
from d2v_tf.training.cluster import StrategyError
from d2v_tf.training.evaluations import Evaluations
from d2v_tf.training.guard import FiniteGuard
from d2v_tf.training.interrupt import StopOnRequest
from d2v_tf.training.logs import RunLog, drop_records_after
from d2v_tf.training.machine import note_start_and_data
from d2v_tf.training.modalities import backbone_class_of, modality_of, task_data
from d2v_tf.training.optimizer import is_decayed
from d2v_tf.training.precision import POLICIES, resolve_precision, resolve_xla
from d2v_tf.training.report import say_how_to_look, tuning_report_at_end
from d2v_tf.training.schedules import build_schedule
from d2v_tf.training.strategy import Replicas
from d2v_tf.training.summary import where_it_starts
from d2v_tf.training.supervised import Supervised
from d2v_tf.training.time_left import TimeLeft
from d2v_tf.training.vision import image_converter
from d2v_tf.training.workdir import open_workdir

PRETRAIN_CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "pretrain"


def finetune(recipe, workdir, console=None, quiet=False, replicas=None):
    """Fine-tunes a backbone and leaves the task model that did best in a folder.

    Running it again in the same folder continues the run as if it had not stopped.

    Args:
        recipe: a `FinetuneRecipe`.
        workdir: str. Gets `config.yaml`, `starts.jsonl`, `metrics.jsonl`, `evaluations.jsonl`,
            `tensorboard/`, `checkpoints/`, `best.weights.h5`, `preset/` and `report.html`.
        console: optional `rich` console for everything that is printed.
        quiet: bool. Whether only warnings and what comes at the end are printed.
        replicas: optional `Replicas` of this process, where the run is computed, of GPUs or CPUs;
            TensorFlow's own choice if `None`.

    Returns:
        (the task model with its best weights, the record of its evaluation).

    Raises:
        UserError: says what to do about it.
    """
    console = console or Console()
    talk = Console(quiet=True) if quiet else console  # what is no warning and not the end
    replicas = replicas or Replicas(tf.distribute.get_strategy())
    if replicas.num_workers > 1 or isinstance(replicas.strategy, tf.distribute.TPUStrategy):
        raise StrategyError(
            "Fine-tuning is computed on one machine, its CPU or its GPUs. Received: "
            f"{replicas.describe()}"
        )

    def warn(line):
        console.print(f"[yellow]warning:[/] {escape(line)}")

    if recipe.init == "scratch" and recipe.freeze != Freeze():
        warn("from scratch nothing is frozen: random weights have to learn, all of them")
        recipe = recipe.model_copy(update={"freeze": Freeze()})
    with open_workdir(workdir, recipe, replicas.count) as recipe:
        keras.utils.set_random_seed(recipe.seed)
        with replica_scope(replicas.strategy):
            backbone, preprocessing, origin = open_backbone(recipe)
            data = open_data(recipe, backbone, preprocessing, warn)
            data.check_parts(replicas.count)
            recipe = resolve_steps(recipe, data)
            task = data.build_task(backbone)
            model = build_model(recipe, task)
        predict_on_one_device(task, task.backbone)
        print_summary(talk, recipe, task, data, origin, replicas)

        checkpoints = Checkpoints(
            os.path.join(workdir, "checkpoints"), model, recipe.keep_checkpoints
        )
        start, passed_over = checkpoints.restore()
        for line in passed_over:
            warn(f"{line}; trying the one before")
        for name in ("metrics.jsonl", "evaluations.jsonl"):
            drop_records_after(os.path.join(workdir, name), start)
        log = open_log(recipe, workdir, console, data, start, quiet)
        evaluations = Evaluations(workdir, talk, task, data, recipe.patience, log)
        if start:
            talk.print(where_it_starts(start, recipe.steps, evaluations.is_over))
        if start < recipe.steps and not evaluations.is_over:
            facts = {"tested_on": data.eval_name, "steps": recipe.steps}
            note_start_and_data(workdir, start, replicas.describe(), data, warn, **facts)
        try:
            with say_how_to_look(workdir, console):
                _fit(recipe, console, data, model, checkpoints, evaluations, log, replicas)
        except tf.errors.OpError as error:
            # TensorFlow wraps what an input pipeline raised in an error of its own.
            raise data.explain(error) from None
        finally:
            log.close()
        evaluations.restore_best()
        evaluations.print_table(console)
        preset = os.path.join(workdir, "preset")
        data.save_preset(in_float32(task), preset)
        console.print(f"model: {escape(preset)}")
        tuning_report_at_end(workdir, console, warn)
        return task, evaluations.best


def in_float32(task):
    """The task with a backbone that computes in float32: KerasHub reads no task in bfloat16."""
    backbone = task.backbone
    if backbone.compute_dtype == "float32":
        return task
    plain = type(backbone).from_config({**backbone.get_config(), "dtype": "float32"})
    plain.set_weights(backbone.get_weights())
    return on_backbone(task, plain)


def open_backbone(recipe):
    """The backbone that a recipe starts from, regularized as it says.

    Args:
        recipe: a `FinetuneRecipe`; `init`, `scratch`, `model` and `precision` are read.

    Returns:
        (backbone, what turns raw input into its input or `None`, str that says where it is from).
    """
    policy = POLICIES[resolve_precision(recipe.precision)]
    if recipe.init == "scratch":
        # A name is one of our recipes, anything else a file.
        path = recipe.scratch
        if os.sep not in path and not path.endswith((".yaml", ".yml")):
            path = str(PRETRAIN_CONFIGS / f"{path}.yaml")
        if not os.path.isfile(path):
            raise UserError(
                f"scratch: {recipe.scratch} is no recipe for pre-training ({path} is no file). "
                f"Give one of configs/pretrain, such as {recipe.modality}_tiny, or RUN/config.yaml."
            )
        pretraining = load_recipe(path, modality=recipe.modality)
        backbone = modality_of(pretraining).backbone(
            **{**pretraining.model.model_dump(), **_given(recipe.model)}, dtype=policy
        )
        # Images are normalized as for pre-training.
        preprocessing = image_converter(pretraining) if recipe.modality == "vision" else None
        return backbone, preprocessing, f"from scratch, of the shape of {recipe.scratch}"
    loaded, report = load_with_report(recipe.init, dtype=policy)
    if not isinstance(loaded, backbone_class_of(recipe.modality)):
        raise UserError(
            f"--init={recipe.init} holds a {type(loaded).__name__}, and the recipe is for "
            f"{recipe.modality}. Give a backbone of that kind, or another --task or --config."
        )
    changes = _given(recipe.model)
    known = inspect.signature(type(loaded).__init__).parameters
    unknown = sorted(set(changes) - set(known))
    if unknown:
        raise UserError(f"model.{unknown[0]}: {type(loaded).__name__} has no such argument.")
    config = {**loaded.get_config(), **changes}
    backbone = type(loaded).from_config({**config, "dtype": policy})
    backbone.set_weights(loaded.get_weights())
    return backbone, load_preprocessing(recipe.init), report.summary()


def _given(group):
    """The fields of a group that are not `None`."""
    return {name: value for name, value in group if value is not None}


def open_data(recipe, backbone, preprocessing, warn):
    """The labelled data of a recipe's task: an object as `training/finetune_vision.py` has it."""
    return task_data(recipe)(recipe, backbone, preprocessing, warn)


def resolve_steps(recipe, data):
    """The recipe with its number of updates, and everything that was a part of it.

    Raises:
        UserError: where a duration is longer than the run.
    """
    steps = recipe.steps
    if steps is None:
        steps = max(1, math.ceil(recipe.epochs * data.batches_per_epoch))
        for key, problem in duration_problems(recipe, steps):
            raise UserError(f"{key}: {problem} ({recipe.epochs:g} epochs of {data.name}).")
    return resolve_durations(recipe, steps)


def build_model(recipe, task):
    """A compiled `Supervised` of a task, with the recipe's optimizer on all that it ever trains."""
    if recipe.freeze.frontend:
        freeze_frontend(task.backbone.frontend)
    variables = task.trainable_variables
    group = recipe.optimizer
    optimizer = LayerwiseAdamW(
        build_schedule(group.learning_rate, recipe.steps, recipe.schedule),
        lr_scales=lr_scales(task, group.layer_decay, group.backbone_scale),
        weight_decay=group.weight_decay,
        undecayed=[v.path for v in variables if not is_decayed(v)],
        beta_1=group.beta_1,
        beta_2=group.beta_2,
        epsilon=group.epsilon,
        global_clipnorm=group.global_clipnorm,
    )
    optimizer.build(variables)
    xla = resolve_xla(recipe.xla)
    model = Supervised(task, compile_parts=xla == "parts")
    model.compile(optimizer, jit_compile=xla is True)
    return model


def freeze_frontend(frontend):
    """Freezes what makes features of raw input; of speech the convolutions only, with their norms.

    So does wav2vec 2.0 (arXiv 2006.11477): the norm and the projection behind them are trained
    with the rest of the backbone.
    """
    if isinstance(frontend, WaveformFrontend):
        frontend.freeze_convolutions()
    else:
        frontend.trainable = False


def open_log(recipe, workdir, console, data, start, quiet=False):
    """The `RunLog` of a run that has made `start` updates; knows what evaluations take."""
    rare = {"evaluation": recipe.evaluate_every, "checkpoint": recipe.checkpoint_every}
    return RunLog(
        workdir,
        start,
        recipe.steps,
        recipe.log_every,
        data.counts,
        console,
        shown=("loss",),
        time_left=TimeLeft(recipe.steps, rare),
        quiet=quiet,
    )


def _fit(recipe, console, data, model, checkpoints, evaluations, log, replicas):
    """Trains to the last update, first with a frozen backbone if asked, and evaluates."""
    start = log.start
    if start < recipe.steps and not evaluations.is_over:
        checkpointer = Checkpointer(
            checkpoints, start, recipe.steps, recipe.checkpoint_every, time_left=log.time_left
        )
        with (
            contextlib.closing(checkpointer),
            StopOnRequest(checkpointer.save_now, console) as stop,
        ):
            model.fit(
                replicas.distribute(lambda *_: data.batches(start)),  # of one process
                steps_per_epoch=recipe.steps - start,
                epochs=1,
                verbose=0,
                shuffle=False,  # the input is shuffled by position already
                callbacks=[
                    FreezeBackbone(recipe.freeze.backbone_steps, start),
                    log,
                    FiniteGuard(start),
                    evaluations.every(recipe.evaluate_every, start),
                    checkpointer,
                    stop,
                ],
            )
    if not evaluations.is_over:
        evaluations.measure(recipe.steps)


def print_summary(console, recipe, task, data, origin, replicas):
    """Prints what is about to run."""
    epochs = recipe.steps / data.batches_per_epoch
    rows = {
        "task": f"{recipe.task}, {type(task).__name__}, {task.count_params():,} parameters",
        "backbone": origin,
        "data": f"{data.name}, {data.num_examples:,} examples",
        "tested on": data.eval_name,
        "labels": data.describe_labels(),
        "length": f"{recipe.steps:,} updates of {recipe.batch_size}, {epochs:,.1f} epochs",
        "numbers": f"{resolve_precision(recipe.precision)}, " + COMPILERS[resolve_xla(recipe.xla)],
    }
    if replicas.count > 1:
        rows["devices"] = replicas.describe()
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(name, escape(value))
    console.print(table)
