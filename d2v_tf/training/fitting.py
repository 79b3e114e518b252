"""The updates of a pre-training run, and what is written while they are made."""

import contextlib
import functools
import os

from rich.markup import escape

from d2v_tf.data.service import watched
from d2v_tf.training.checkpointer import Checkpointer
from d2v_tf.training.guard import HealthGuard, RunStopped
from d2v_tf.training.interrupt import StopOnRequest
from d2v_tf.training.logs import RunLog
from d2v_tf.training.memory import peak_bytes
from d2v_tf.training.pictures import Pictures
from d2v_tf.training.profiling import Profile


def fit(run, start, profile=None):
    """Trains from update `start` to the last one.

    Args:
        run: `Run`.
        start: int. Updates made before.
        profile: optional (first, last) of the updates that TensorFlow's profiler looks at.

    Raises:
        RunStopped: where the run went wrong; what to try instead.
        KeyboardInterrupt: where it was asked to stop, once it is saved.
    """
    replicas, probe_every = run.replicas, run.recipe.probe_every

    def save():
        saved = checkpointer.save_now() if replicas.is_chief else 0
        replicas.gather(saved)  # nobody leaves before it is on disk

    stop = StopOnRequest(save, run.console, lambda requested: any(replicas.gather(requested)))
    guard = HealthGuard(start, run.recipe.guard)
    again = [stop.again_every(probe_every, start)] if probe_every else []
    if not replicas.is_chief:
        with contextlib.closing(run.checkpoints):
            _update(run, start, stop, [guard, stop, *again])
        return

    log, checkpointer = _open_log(run, start), _open_checkpointer(run, start)
    run.evidence.write_to(log.writer, start)
    looks = _open_profile(run, start, profile)
    pictures = Pictures(log, run.recipe, run.data, run.recipe.checkpoint_every, run.warn)
    takes_long = [pictures, *_open_probes(run, start, stop), *again]
    try:
        with contextlib.closing(checkpointer):
            _update(run, start, stop, [*looks, log, guard, checkpointer, stop, *takes_long])
        _check_last(run, checkpointer)
        run.evidence.measure(run.backbone, run.recipe.steps)
    finally:
        for look in looks:
            look.stop()
        log.close()


def _update(run, start, stop, callbacks):
    with stop, watched(run.replicas.services):
        run.model.fit(
            run.replicas.distribute(functools.partial(run.data.batches, start)),
            steps_per_epoch=run.recipe.steps - start,
            epochs=1,
            verbose=0,
            shuffle=False,  # the input is shuffled by position already
            callbacks=callbacks,
        )


def _open_log(run, start):
    return RunLog(
        run.workdir,
        start,
        run.recipe.steps,
        run.recipe.log_every,
        lambda: {**run.data.counts(), **peak_bytes()},
        run.console,
        time_left=run.evidence.time_left,
        quiet=run.quiet,
    )


def _open_checkpointer(run, start):
    return Checkpointer(
        run.checkpoints,
        start,
        run.recipe.steps,
        run.recipe.checkpoint_every,
        run.warn,
        run.evidence.time_left,
        before_probes=run.recipe.probe_every,
    )


def _open_profile(run, start, profile):
    if not profile:
        return []
    folder = os.path.join(run.workdir, "tensorboard")
    return [
        Profile(folder, start, *profile, lambda line: run.console.print(escape(line)), run.warn)
    ]


def _open_probes(run, start, stop):
    """What probes every so many updates and keeps the best; makes up for what a run that was
    killed may have missed."""
    every = run.recipe.probe_every
    if not every:
        return []

    def keep_best(step):
        if run.evidence.best_step == step:
            try:
                run.save_backbone("best")
            except OSError as error:
                best = os.path.join(run.workdir, "best")
                run.warn(f"{best} of step {step} cannot be written ({error.strerror})")

    if start and start % every == 0:
        run.evidence.measure(run.backbone, start)
    keep_best(start)
    return [run.evidence.every(every, start, keep_best, is_over=lambda: stop.requested is not None)]


def _check_last(run, checkpointer):
    if checkpointer.saved != run.recipe.steps:
        raise RunStopped(
            f"The weights or the optimizer's state hold numbers that are not finite after "
            f"the last update, {run.recipe.steps}: it is not saved. The checkpoint of step "
            f"{checkpointer.saved} is kept. Try, in another --workdir, a lower "
            "optimizer.learning_rate, or precision=float32."
        )
