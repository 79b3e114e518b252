"""What a step spends its time on: TensorFlow's profiler, for a few updates."""

import os
import re

import keras
import tensorflow as tf

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
        (int, int): the first and the last, counted from 1.

    Raises:
        ProfileError: where they are none that the run makes.
    """
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ProfileError(f"--profile={text}: give FIRST:LAST, the updates, such as 100:110.")
    first, last = int(match[1]), int(match[2])
    if start >= steps:
        raise ProfileError(f"--profile={text}: the run is finished and makes no more updates.")
    if first <= start or last > steps:
        raise ProfileError(
            f"--profile={text}: this start of the run makes updates {start + 1} to {steps}. Name "
            "some of them; leave out the first ten, which compile and warm up."
        )
    return first, last


class Profile(keras.callbacks.Callback):
    """Writes a profile for TensorBoard.

    Args:
        folder: str. TensorBoard's.
        start: int. Updates made before this fit.
        first, last: ints. The updates.
        say: callable(str), told where it is.
    """

    def __init__(self, folder, start, first, last, say):
        super().__init__()
        self.folder, self.start, self.first, self.last = folder, start, first, last
        self.say, self.runs = say, False

    def on_train_batch_begin(self, batch, logs=None):
        if self.start + batch + 1 == self.first:
            tf.profiler.experimental.start(self.folder)
            self.runs = True

    def on_train_batch_end(self, batch, logs=None):
        if self.runs and self.start + batch + 1 == self.last:
            self.stop()

    def stop(self):
        """Ends and writes the profile, also of a run that is stopped on the way."""
        if self.runs:
            self.runs = False
            tf.profiler.experimental.stop()
            path = os.path.join(self.folder, "plugins", "profile")
            self.say(
                f"profile: {path}; to see it: pip install tensorboard-plugin-profile, then "
                f"tensorboard --logdir={self.folder}"
            )
