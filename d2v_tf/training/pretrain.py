"""One pre-training run, from recipe to preset."""

import os

import keras
import tensorflow as tf
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from d2v_tf.pretraining.data2vec import Data2Vec
from d2v_tf.training.checkpoints import Checkpointer, Checkpoints
from d2v_tf.training.evidence import Evidence
from d2v_tf.training.guard import HealthGuard
from d2v_tf.training.interrupt import StopOnRequest
from d2v_tf.training.logs import RunLog, drop_records_after
from d2v_tf.training.modalities import modality_of
from d2v_tf.training.optimizer import build_optimizer
from d2v_tf.training.precision import POLICIES, resolve_precision, resolve_xla
from d2v_tf.training.start import start_from
from d2v_tf.training.workdir import open_workdir


def build_model(recipe):
    """Builds a recipe's `Data2Vec` with its optimizer, ready to fit.

    Seeds Python, NumPy and Keras with `recipe.seed` first, so equal recipes give equal weights.

    Args:
        recipe: a resolved `Recipe`.

    Returns:
        A compiled `Data2Vec`.
    """
    modality = modality_of(recipe)
    precision = resolve_precision(recipe.precision)
    keras.utils.set_random_seed(recipe.seed)
    backbone = modality.backbone(**recipe.model.model_dump(), dtype=POLICIES[precision])
    model = Data2Vec(
        backbone,
        **recipe.data2vec.model_dump(),
        max_masked=modality.max_masked(recipe),
        accumulate=recipe.accumulate,
    )
    model.compile(
        build_optimizer(recipe, model.trainable_variables),
        jit_compile=resolve_xla(recipe.xla, precision, recipe.model),
    )
    return model


def pretrain(recipe, workdir, console=None, published_batch_size=None):
    """Pre-trains a backbone and leaves it, with all that it takes to continue, in a folder.

    The folder decides how the run starts: from its newest readable checkpoint if it has one,
    otherwise from `recipe.init` or from random weights. A resumed run goes on as if it had not
    stopped.

    Args:
        recipe: a resolved `Recipe`.
        workdir: str. Gets `config.yaml`, `metrics.jsonl`, `probes.jsonl`, `tensorboard/`,
            `checkpoints/` and `preset/`.
        console: optional `rich` console for everything that is printed.
        published_batch_size: optional int. The recipe file's batch, named where this one differs.

    Returns:
        The pre-trained backbone.

    Raises:
        WorkdirError, CheckpointError, DataError, RunStopped: each says what to do about it.
    """
    console = console or Console()

    def warn(line):
        console.print(f"[yellow]warning:[/] {escape(line)}")

    init = recipe.init
    with open_workdir(workdir, recipe) as recipe:
        data = modality_of(recipe).open_data(recipe, warn=warn)
        model = build_model(recipe)
        backbone = model.student
        evidence = Evidence(workdir, console, data.probe_tasks())
        print_summary(console, recipe, model, data, published_batch_size)

        checkpoints = Checkpoints(
            os.path.join(workdir, "checkpoints"), model, recipe.keep_checkpoints
        )
        start, passed_over = checkpoints.restore()
        for line in passed_over:
            warn(f"{line}; trying the one before")
        if start:
            console.print(f"resuming after step {start}")
            if init:
                origin = "random weights" if recipe.init is None else recipe.init
                console.print(f"init: not read; this run started from {escape(origin)}")
        elif recipe.init:
            for line in start_from(model, recipe):
                console.print(f"init: {escape(line)}")
        drop_records_after(os.path.join(workdir, "metrics.jsonl"), start)
        # Before its first checkpoint a run may have been started from other weights.
        drop_records_after(evidence.path, start or -1)
        try:
            if not start:
                evidence.measure_baselines(backbone, "initial" if recipe.init else "untrained")
            if start < recipe.steps:
                _fit(recipe, workdir, console, data, model, checkpoints, evidence, start)
            evidence.measure(backbone, recipe.steps)
        except tf.errors.OpError as error:
            # TensorFlow wraps what an input pipeline raised in an error of its own.
            raise data.explain(error) from None
        evidence.print_table()
        preset = os.path.join(workdir, "preset")
        backbone.save_to_preset(preset)
        data.save_preprocessing(preset)
        console.print(f"backbone: {escape(preset)}")
        return backbone


def _fit(recipe, workdir, console, data, model, checkpoints, evidence, start):
    """Trains from update `start` to the last one."""
    log = RunLog(workdir, start, recipe.steps, recipe.log_every, data.counts, console)
    checkpointer = Checkpointer(checkpoints, start, recipe.steps, recipe.checkpoint_every)
    callbacks = [log, HealthGuard(start, recipe.guard), checkpointer]
    if recipe.probe_every:
        callbacks.append(evidence.every(recipe.probe_every, start))
    try:
        with StopOnRequest(checkpointer.save_now, console) as stop:
            model.fit(
                data.batches(start),
                steps_per_epoch=recipe.steps - start,
                epochs=1,
                verbose=0,
                shuffle=False,  # the input is shuffled by position already
                callbacks=[*callbacks, stop],
            )
    finally:
        log.close()


def print_summary(console, recipe, model, data, published_batch_size=None):
    """Prints what is about to run: model, data, effective batch, length."""
    backbone = model.student
    shape = recipe.model
    precision = resolve_precision(recipe.precision)
    compiler = "XLA" if resolve_xla(recipe.xla, precision, recipe.model) else "graph"
    epochs = recipe.steps / data.batches_per_epoch
    rows = {
        "model": (
            f"{type(backbone).__name__}, {shape.num_layers} blocks of width {shape.hidden_dim}, "
            f"{backbone.count_params():,} parameters"
        ),
        "data": f"{data.name}, {data.num_examples:,} examples"
        + (f", read by {data.reader}" if data.reader else ""),
        "batch": data.describe_batch()
        + (f", in {recipe.accumulate} parts" if recipe.accumulate > 1 else ""),
        "length": f"{recipe.steps:,} updates, {epochs:,.1f} epochs",
        "numbers": f"{precision}, {compiler}",
    }
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(name, escape(value))
    console.print(table)
    if published_batch_size not in (None, recipe.batch_size):
        parts = -(-published_batch_size // recipe.batch_size)
        keep = ""
        if parts > 1 and published_batch_size % parts == 0:
            keep = (
                f" Keep it by --set batch_size={published_batch_size} --set accumulate={parts}, or "
            )
        console.print(
            f"[yellow]warning:[/] the recipe is for batches of {published_batch_size}, not "
            f"{recipe.batch_size}. Results depend on it."
            + (keep or " ")
            + ("tune" if keep else "Tune")
            + " the learning rate and EMA anew."
        )
