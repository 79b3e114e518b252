"""When a run saves its checkpoints."""

import keras

from d2v_tf.training.checkpoints import CheckpointError
from d2v_tf.training.time_left import TimeLeft


class Checkpointer(keras.callbacks.Callback):
    """Saves every `every` updates, before what takes long, and after the last one.

    Training goes on while a thread writes, where `checkpoints.in_background`; how that ended is
    known after one of the next updates. Before another one is begun, and at the end, it is waited
    for.

    Args:
        checkpoints: `Checkpoints`.
        start: int. Updates made before this fit.
        steps: int. Updates of the whole run.
        every: int. Updates between two checkpoints.
        warn: optional callable(str). Told of a checkpoint that cannot be written, where a later one
            still may be; without it, training ends there.
        time_left: optional `TimeLeft`, told what saving takes.
        before_probes: int. Also every so many updates, 0 = never: what follows them takes long.
    """

    def __init__(
        self, checkpoints, start, steps, every, warn=None, time_left=None, before_probes=0
    ):
        super().__init__()
        self.time_left = time_left or TimeLeft(steps)
        self.checkpoints, self.warn = checkpoints, warn
        self.step = self.saved = start
        self.begun = None  # the step that is being written
        self.steps, self.every = steps, [n for n in (every, before_probes) if n]

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.step == self.steps:
            self.save_now()
            return
        if self.begun and not self.checkpoints.is_writing:
            self._end()
        if any(self.step % every == 0 for every in self.every):
            with self.time_left.pause("checkpoint"):
                self._end()
                if self.checkpoints.begin(self.step):
                    self.begun = self.step
                if not self.checkpoints.is_writing:
                    self._end()

    def save_now(self):
        """Saves unless this step is saved already. Returns the step that is on disk.

        Raises:
            CheckpointError: where it cannot be written.
        """
        if self.begun or self.step > self.saved:
            with self.time_left.pause("checkpoint"):
                self._end()
                if self.step > self.saved and self.checkpoints.save(self.step):
                    self.saved = self.step
        return self.saved

    def close(self):
        """Waits for what is being written, and says how that ended.

        Raises:
            CheckpointError: where it cannot be written, and there is no `warn`.
        """
        try:
            self._end()
        finally:
            self.checkpoints.close()

    def _end(self):
        begun, self.begun = self.begun, None
        if begun is None:
            return
        try:
            self.checkpoints.end()
            self.saved = begun
        except CheckpointError as error:
            if self.warn is None:
                raise
            self.warn(str(error))
