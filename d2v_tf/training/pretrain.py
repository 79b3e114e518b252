"""One pre-training run, from recipe to preset."""

import contextlib
import functools
import os
import re
import shutil
import zlib

import tensorflow as tf
from rich.console import Console
from rich.markup import escape

from d2v_tf.config import dump_recipe
from d2v_tf.data.input_errors import reason_and_node
from d2v_tf.data.reading import first_line
from d2v_tf.data.service import watched
from d2v_tf.errors import UserError
from d2v_tf.training.checkpointer import Checkpointer
from d2v_tf.training.checkpoints import Checkpoints
from d2v_tf.training.evidence import Evidence
from d2v_tf.training.guard import HealthGuard, RunStopped
from d2v_tf.training.interrupt import StopOnRequest
from d2v_tf.training.logs import RunLog, drop_records_after
from d2v_tf.training.machine import data_facts, note_start, other_data
from d2v_tf.training.memory import peak_bytes
from d2v_tf.training.modalities import modality_of
from d2v_tf.training.model import build_model
from d2v_tf.training.pictures import Pictures
from d2v_tf.training.profiling import Profile, parse_profile
from d2v_tf.training.report import is_of_the_end, report_at_end, say_how_to_look
from d2v_tf.training.start import start_from
from d2v_tf.training.strategy import Replicas
from d2v_tf.training.summary import print_summary
from d2v_tf.training.time_left import TimeLeft
from d2v_tf.training.workdir import WorkdirError, open_workdir


class WorkerLost(UserError):
    """Another worker of the run is gone; this one cannot go on without it."""


# How TensorFlow says that a worker does not answer: nothing that this one did. Files and data
# services are said to be unavailable, too.
LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)
OF_WORKERS = re.compile(
    r"collective|coordinat|/job:|/task:\d|peer|socket closed|heartbeat|barrier|connect", re.I
)


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
    try:
        return _pretrain(
            recipe, workdir, console or Console(), published_batch_size, replicas, quiet, profile
        )
    except LOST as error:
        reason, node = reason_and_node(error)
        # Where a worker is lost, what is said last is only how to go on.
        aborted = re.search(r"Collective ops is aborted.*", error.message)
        reason = aborted.group() if aborted else reason
        if replicas.num_workers == 1 or not OF_WORKERS.search(f"{node} {reason}"):
            raise
        raise WorkerLost(
            f"Worker {replicas.worker} stops, for another one of the {replicas.num_workers} does "
            f"not answer ({reason}). What that one printed says why. Start all of them "
            "anew, and the run goes on from its newest checkpoint."
        ) from None


def _pretrain(recipe, workdir, everybody, published_batch_size, replicas, quiet, profile):
    is_chief = replicas.is_chief
    console = everybody if is_chief else Console(quiet=True)
    talk = Console(quiet=True) if quiet else console  # what is no warning and not the end

    def warn(line):
        of = f" of worker {replicas.worker}" if replicas.num_workers > 1 else ""
        everybody.print(f"[yellow]warning{of}:[/] {escape(line)}")

    init = recipe.init
    with open_workdir(workdir, recipe, replicas.count, is_chief) as recipe:
        data = modality_of(recipe).open_data(recipe, warn=warn)
        data.check_parts(replicas.count)
        data.check_services(replicas.services, replicas.num_workers)
        model = build_model(recipe, replicas.strategy)
        backbone = model.student
        rare = {"probe": recipe.probe_every, "checkpoint": recipe.checkpoint_every}
        time_left = TimeLeft(recipe.steps, {**rare, "pictures": recipe.checkpoint_every})
        tasks = data.probe_tasks() if is_chief else []
        evidence = Evidence(workdir, console, tasks, time_left, talk)
        print_summary(
            talk,
            warn if is_chief else lambda _: None,
            recipe,
            model,
            data,
            published_batch_size,
            replicas,
        )

        checkpoints = Checkpoints(
            os.path.join(workdir, "checkpoints"), model, recipe.keep_checkpoints, recipe.keep_every
        )
        start, passed_over = checkpoints.restore()
        for line in passed_over:
            warn(f"{line}; trying the one before")
        _check_agreement(replicas, workdir, start, recipe, data)
        if profile:
            updates = parse_profile(profile, start, recipe.steps)
            if updates is None and is_chief:
                warn(f"--profile={profile}: the run is past that; no profile is made")
            profile = updates
        if start:
            talk.print(f"resuming after step {start}")
            if init:
                origin = "random weights" if recipe.init is None else recipe.init
                talk.print(f"init: not read; this run started from {escape(origin)}")
        elif recipe.init:
            for line in start_from(model, recipe):
                talk.print(f"init: {escape(line)}")
        if is_chief:
            drop_records_after(os.path.join(workdir, "metrics.jsonl"), start)
            # Before its first checkpoint a run may have been started from other weights.
            drop_records_after(evidence.path, start or -1)
            if start < recipe.steps:
                changed = start and other_data(workdir, data)
                if changed:
                    warn(changed)
                note_start(workdir, start, replicas.describe(), warn, **data_facts(data))
        try:
            if not start:
                if evidence.tasks:
                    talk.print("probing first what the run has to beat")
                evidence.measure_baselines(backbone, "initial" if recipe.init else "untrained")
            with say_how_to_look(workdir, console):
                if start < recipe.steps:
                    _fit(
                        recipe,
                        workdir,
                        console,
                        warn,
                        data,
                        model,
                        checkpoints,
                        evidence,
                        start,
                        replicas,
                        quiet,
                        profile,
                    )
                else:  # what a run that was killed may have missed
                    evidence.measure(backbone, recipe.steps)
        except tf.errors.OpError as error:
            # TensorFlow wraps what an input pipeline raised in an error of its own.
            raise data.explain(error) from None
        evidence.print_table()
        if not is_chief:
            replicas.gather(recipe.steps)  # until the chief has written everything
            return backbone
        preset = os.path.join(workdir, "preset")
        was_finished = start == recipe.steps and os.path.isdir(preset)
        try:
            save_preset(data, backbone, preset)
            if evidence.best_step == recipe.steps and recipe.probe_every:
                save_preset(data, backbone, os.path.join(workdir, "best"))
        except OSError as error:
            raise WorkdirError(
                f"The backbone cannot be written to {workdir} ({error.strerror}). Its "
                "checkpoint is there: free some space, and the same command writes it."
            ) from error
        console.print(f"backbone: {escape(preset)}")
        # A report may be of the middle of the run, or from before its last probe.
        if not (was_finished and is_of_the_end(workdir, recipe)):
            report_at_end(recipe, workdir, data, backbone, console, warn)
        replicas.gather(recipe.steps)
        return backbone


def save_preset(data, backbone, folder):
    """Writes a backbone and its preprocessing in place of what is in the folder, once whole.

    Raises:
        OSError: where it cannot be written; what was there is as it was.
    """
    new, old = f"{folder}.new", f"{folder}.old"
    for path in (new, old):
        shutil.rmtree(path, ignore_errors=True)
    try:
        backbone.save_to_preset(new)
        data.save_preprocessing(new)
    except (OSError, RuntimeError) as error:  # the second is HDF5's, while it closes a file
        shutil.rmtree(new, ignore_errors=True)
        reason = getattr(error, "strerror", None) or first_line(error)
        raise OSError(getattr(error, "errno", None), reason) from error
    if os.path.exists(folder):
        os.rename(folder, old)
    os.rename(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def _check_agreement(replicas, workdir, start, recipe, data):
    """Refuses workers of which some go on otherwise than the chief: one run has one of each."""
    same = zlib.crc32(f"{dump_recipe(recipe)}{data.num_examples}".encode())
    if len(set(replicas.gather(same))) > 1:
        raise WorkdirError(
            f"worker {replicas.worker} has precision {recipe.precision}, xla {recipe.xla} and "
            f"{data.num_examples:,} examples of {recipe.data.source}; another worker differs in "
            "one of them or in another key. Set precision and xla where the machines differ, and "
            "give all the same data."
        )
    starts = replicas.gather(start)
    if len(set(starts)) > 1:
        raise WorkdirError(
            f"--workdir={workdir} is not one folder: its newest readable checkpoint is of updates "
            f"{', '.join(map(str, starts))} for workers 0 to {len(starts) - 1}. Give one that all "
            "workers see, on a shared file system."
        )


def _fit(
    recipe,
    workdir,
    console,
    warn,
    data,
    model,
    checkpoints,
    evidence,
    start,
    replicas,
    quiet,
    profile,
):
    """Trains from update `start` to the last one."""
    callbacks, backbone = [HealthGuard(start, recipe.guard)], model.student
    time_left, looks, takes_long = evidence.time_left, None, []

    def save():
        saved = checkpointer.save_now() if replicas.is_chief else 0
        replicas.gather(saved)  # nobody leaves before it is on disk

    def anybody(requested):
        return any(replicas.gather(requested))

    stop = StopOnRequest(save, console, anybody)
    if replicas.is_chief:

        def counts():
            return {**data.counts(), **peak_bytes()}

        log = RunLog(
            workdir,
            start,
            recipe.steps,
            recipe.log_every,
            counts,
            console,
            time_left=time_left,
            quiet=quiet,
        )
        checkpointer = Checkpointer(
            checkpoints,
            start,
            recipe.steps,
            recipe.checkpoint_every,
            warn,
            time_left,
            before_probes=recipe.probe_every,
        )
        callbacks = [log, *callbacks, checkpointer]
        takes_long.append(Pictures(log, recipe, data, recipe.checkpoint_every, warn))
        evidence.write_to(log.writer, start)
        if profile:
            folder = os.path.join(workdir, "tensorboard")
            looks = Profile(folder, start, *profile, lambda line: console.print(escape(line)), warn)
            callbacks.insert(0, looks)
    if recipe.probe_every and replicas.is_chief:

        def keep_best(step):
            best = os.path.join(workdir, "best")
            if evidence.best_step == step:
                try:
                    save_preset(data, model.student, best)
                except OSError as error:
                    warn(f"{best} of step {step} cannot be written ({error.strerror})")

        # What a run that was killed may have missed.
        if start and start % recipe.probe_every == 0:
            evidence.measure(backbone, start)
        keep_best(start)
        takes_long.append(
            evidence.every(
                recipe.probe_every, start, keep_best, is_over=lambda: stop.requested is not None
            )
        )
    if recipe.probe_every:
        takes_long.append(stop.again_every(recipe.probe_every, start))

    try:
        writes = checkpointer if replicas.is_chief else checkpoints
        with contextlib.closing(writes), stop, watched(replicas.services):
            model.fit(
                replicas.distribute(functools.partial(data.batches, start)),
                steps_per_epoch=recipe.steps - start,
                epochs=1,
                verbose=0,
                shuffle=False,  # the input is shuffled by position already
                callbacks=[*callbacks, stop, *takes_long],
            )
        if replicas.is_chief:
            if checkpointer.saved != recipe.steps:
                raise RunStopped(
                    f"The weights or the optimizer's state hold numbers that are not finite after "
                    f"the last update, {recipe.steps}: it is not saved. The checkpoint of step "
                    f"{checkpointer.saved} is kept. Try, in another --workdir, a lower "
                    "optimizer.learning_rate, or precision=float32."
                )
            log.say_next("probing")
            evidence.measure(backbone, recipe.steps)
    finally:
        if looks:
            looks.stop()
        if replicas.is_chief:
            log.close()
