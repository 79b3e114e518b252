"""Ctrl-C and SIGTERM wait for the update to end: what is saved is the state between two.

A scheduler that takes a machine away sends SIGTERM first.
"""

import signal
import threading

import keras

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """A run that was told to end by SIGTERM, and has saved."""

    # What a shell reports of a process that a signal ended: schedulers know it.
    exit_status = 128 + signal.SIGTERM


class StopOnRequest(keras.callbacks.Callback):
    """Lets an update end and saves before it raises.

    Of the callbacks it comes after those that keep what an update has made, and before those that
    take long: a scheduler gives a run a minute or two.

    As a context manager it takes over SIGINT, after which it raises `KeyboardInterrupt`, and
    SIGTERM, after which it raises `Terminated`. A second Ctrl-C stops at once, without saving.

    Args:
        save: callable without arguments.
        console: `rich` console.
        anybody: optional function of whether this worker is to stop to whether any is. All workers
            call it after every update, so that all stop after the same one.

    Attributes:
        requested: the signal that asked for it, or `None`.
    """

    def __init__(self, save, console, anybody=bool):
        super().__init__()
        self.save, self.console, self.anybody = save, console, anybody
        self.requested = None

    def __enter__(self):
        # Python delivers signals to its main thread, and lets no other one ask for them.
        self.installed = threading.current_thread() is threading.main_thread()
        if self.installed:
            self.previous = {number: signal.signal(number, self._request) for number in SIGNALS}
        return self

    def __exit__(self, *_):
        if self.installed:
            for number, handler in self.previous.items():
                signal.signal(number, handler)

    def on_train_batch_end(self, batch, logs=None):
        self.check()

    def again_every(self, steps, start):
        """A callback that looks once more every `steps` updates, after what takes long there.

        Args:
            steps: int.
            start: int. Updates made before this fit.
        """

        def check(batch, logs=None):
            if (start + batch + 1) % steps == 0:
                self.check()

        return keras.callbacks.LambdaCallback(on_train_batch_end=check)

    def check(self):
        """Saves and raises, where this worker or another one was asked to stop."""
        if self.anybody(self.requested is not None):
            self.save()
            # A worker that was not told itself ends as one whose machine is taken away.
            raise KeyboardInterrupt if self.requested == signal.SIGINT else Terminated

    def _request(self, number, _):
        if self.requested == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = number
        again = "; Ctrl-C again stops at once, unsaved" if number == signal.SIGINT else ""
        self.console.print(f"stopping after this update{again}")
