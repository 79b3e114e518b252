"""One pre-training run, from recipe to preset."""

import os

import tensorflow as tf
from rich.console import Console
from rich.markup import escape

from d2v_tf.training.fitting import fit
from d2v_tf.training.logs import drop_records_after
from d2v_tf.training.machine import note_start_and_data
from d2v_tf.training.profiling import parse_profile
from d2v_tf.training.report import is_of_the_end, report_at_end, say_how_to_look
from d2v_tf.training.run import open_run
from d2v_tf.training.start import start_from
from d2v_tf.training.strategy import Replicas
from d2v_tf.training.summary import print_summary, where_it_starts
from d2v_tf.training.workdir import WorkdirError, open_workdir
from d2v_tf.training.workers import check_agreement, lost_workers_named


def pretrain(
    recipe,
    workdir,
    console=None,
    published_batch_size=None,
    replicas=None,
    quiet=False,
    profile=None,
):
    """Pre-trains a backbone and leaves it, with all that it takes to continue, in a folder.

    The folder decides how the run starts: from its newest readable checkpoint if it has one,
    otherwise from `recipe.init` or from random weights. A resumed run goes on as if it had not
    stopped.

    Args:
        recipe: a resolved `Recipe`.
        workdir: str. Gets `config.yaml`, `starts.jsonl`, `metrics.jsonl`, `probes.jsonl`,
            `tensorboard/`, `checkpoints/`, `preset/` and `report.html`.
        console: optional `rich` console for everything that is printed.
        published_batch_size: optional int. The recipe file's batch, named where this one differs.
        replicas: optional `Replicas`, where the run is computed; TensorFlow's own choice if `None`.
            Each of several workers calls this, with the same recipe and a folder that all of them
            see, and the chief alone writes and prints.
        quiet: bool. Whether only warnings and what comes at the end are printed.
        profile: optional str, `FIRST:LAST`. Updates that TensorFlow's profiler looks at.

    Returns:
        The pre-trained backbone.

    Raises:
        WorkdirError, CheckpointError, DataError, RunStopped, WorkerLost, ProfileError: each says
            what to do about it.
    """
    replicas = replicas or Replicas(tf.distribute.get_strategy())
    init = recipe.init
    with (
        lost_workers_named(replicas),
        open_workdir(workdir, recipe, replicas.count, replicas.is_chief) as recipe,
    ):
        run = open_run(recipe, workdir, console or Console(), replicas, quiet)
        print_summary(run, published_batch_size)
        start = _restore(run)
        check_agreement(replicas, workdir, start, recipe, run.data)
        profile = _updates_to_profile(run, start, profile)
        _start(run, start, init)
        try:
            _train(run, start, profile)
        except tf.errors.OpError as error:
            # TensorFlow wraps what an input pipeline raised in an error of its own.
            raise run.data.explain(error) from None
        run.evidence.print_table()
        if replicas.is_chief:
            _leave_behind(run, start)
        replicas.gather(recipe.steps)  # until the chief has written everything
        return run.backbone


def _restore(run):
    """Reads the newest readable checkpoint; the updates that were made until then."""
    start, passed_over = run.checkpoints.restore()
    for line in passed_over:
        run.warn(f"{line}; trying the one before")
    return start


def _updates_to_profile(run, start, profile):
    if not profile:
        return None
    updates = parse_profile(profile, start, run.recipe.steps)
    if updates is None and run.replicas.is_chief:
        run.warn(f"--profile={profile}: the run is past that; no profile is made")
    return updates


def _start(run, start, init):
    """Says where the run starts and writes it down; a new run gets the weights of `recipe.init`.

    Args:
        init: optional str. What this command was given for it.
    """
    recipe, workdir = run.recipe, run.workdir
    if start:
        run.talk.print(where_it_starts(start, recipe.steps))
        if init:
            origin = "random weights" if recipe.init is None else recipe.init
            run.talk.print(f"init: not read; this run started from {escape(origin)}")
    elif recipe.init:
        for line in start_from(run.model, recipe):
            run.talk.print(f"init: {escape(line)}")
    if not run.replicas.is_chief:
        return
    drop_records_after(os.path.join(workdir, "metrics.jsonl"), start)
    # Before its first checkpoint a run may have been started from other weights.
    drop_records_after(run.evidence.path, start or -1)
    if start < recipe.steps:
        note_start_and_data(workdir, start, run.replicas.describe(), run.data, run.warn)


def _train(run, start, profile):
    """Probes what the run has to beat, and makes the updates that are left."""
    if not start:
        if run.evidence.tasks:
            run.talk.print("probing first what the run has to beat")
        run.evidence.measure_baselines(run.backbone, "initial" if run.recipe.init else "untrained")
    with say_how_to_look(run.workdir, run.console):
        if start < run.recipe.steps:
            fit(run, start, profile)
        else:  # what a run that was killed may have missed
            run.evidence.measure(run.backbone, run.recipe.steps)


def _leave_behind(run, start):
    """Writes the preset and the report."""
    steps = run.recipe.steps
    was_finished = start == steps and os.path.isdir(os.path.join(run.workdir, "preset"))
    try:
        preset = run.save_backbone("preset")
        if run.evidence.best_step == steps and run.recipe.probe_every:
            run.save_backbone("best")
    except OSError as error:
        raise WorkdirError(
            f"The backbone cannot be written to {run.workdir} ({error.strerror}). Its "
            "checkpoint is there: free some space, and the same command writes it."
        ) from error
    run.console.print(f"backbone: {escape(preset)}")
    # A report may be of the middle of the run, or from before its last probe.
    if not (was_finished and is_of_the_end(run.workdir, run.recipe)):
        report_at_end(run.recipe, run.workdir, run.data, run.backbone, run.console, run.warn)
