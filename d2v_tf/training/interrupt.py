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
    """Lets an update end and saves before it raises; to be the last callback.

    As a context manager it takes over SIGINT, after which it raises `KeyboardInterrupt`, and
    SIGTERM, after which it raises `Terminated`. A second Ctrl-C stops at once, without saving.

    Args:
        save: callable without arguments.
        console: `rich` console.
        anybody: optional function of whether this worker is to stop to whether any is. All workers
            call it after every update, so that all stop after the same one.
    """

    def __init__(self, save, console, anybody=bool):
        super().__init__()
        self.save, self.console, self.anybody = save, console, anybody
        self.requested = None  # the signal

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
