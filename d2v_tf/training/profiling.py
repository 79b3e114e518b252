"""What a step spends its time on: TensorFlow's profiler, for a few updates."""

import os
import re

import keras
import tensorflow as tf

from d2v_tf.data.reading import first_line
from d2v_tf.errors import UserError


class ProfileError(UserError):
    """Updates that cannot be profiled."""


def parse_profile(text, start, steps):
    """The updates that `--profile` names.

    Args:
        text: str, `FIRST:LAST`.
        start: int. Updates made before.
        steps: int. Updates of the whole run.

    Returns:
        (int, int): the first and the last, counted from 1; `None` where the first was made before
        this start, so that the same command continues a run.

    Raises:
        ProfileError: for another text, or updates past the run's end.
    """
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ProfileError(f"--profile={text}: give FIRST:LAST, the updates, such as 100:110.")
    first, last = int(match[1]), int(match[2])
    if last > steps:
        raise ProfileError(
            f"--profile={text}: the run makes updates 1 to {steps}. Name some of them; leave out "
            "the first ten, which compile and warm up."
        )
    return (first, last) if first > start else None


class Profile(keras.callbacks.Callback):
    """Writes a profile for TensorBoard.

    Args:
        folder: str. TensorBoard's.
        start: int. Updates made before this fit.
        first, last: ints. The updates.
        say: callable(str), told where it is.
        warn: callable(str), told of a profile that cannot be made, which is no reason to stop.
    """

    def __init__(self, folder, start, first, last, say, warn):
        super().__init__()
        self.folder, self.start, self.first, self.last = folder, start, first, last
        self.say, self.warn, self.runs = say, warn, False

    def on_train_batch_begin(self, batch, logs=None):
        if self.start + batch + 1 == self.first:
            self.runs = self._try(lambda: tf.profiler.experimental.start(self.folder))

    def on_train_batch_end(self, batch, logs=None):
        if self.runs and self.start + batch + 1 == self.last:
            self.stop()

    def stop(self):
        """Ends and writes the profile, also of a run that is stopped on the way."""
        if self.runs:
            self.runs = False
            if not self._try(tf.profiler.experimental.stop):
                return
            path = os.path.join(self.folder, "plugins", "profile")
            self.say(
                f"profile: {path}; to see it: pip install tensorboard-plugin-profile, then "
                f"tensorboard --logdir={self.folder}"
            )

    def _try(self, function):
        try:
            function()
        except (OSError, tf.errors.OpError) as error:
            self.warn(f"--profile: no profile was made ({first_line(error)})")
            return False
        return True
