"""Ctrl-C that waits for the update to end, so that what is saved is the state between two."""

import signal
import threading

import keras


class StopOnRequest(keras.callbacks.Callback):
    """Lets an update end and saves before it raises `KeyboardInterrupt`; to be the last callback.

    As a context manager it takes over SIGINT. A second one stops at once, without saving.

    Args:
        save: callable without arguments.
        console: `rich` console.
    """

    def __init__(self, save, console):
        super().__init__()
        self.save, self.console = save, console
        self.requested = False

    def __enter__(self):
        # Python delivers signals to its main thread, and lets no other one ask for them.
        self.installed = threading.current_thread() is threading.main_thread()
        if self.installed:
            self.previous = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(self, *_):
        if self.installed:
            signal.signal(signal.SIGINT, self.previous)

    def on_train_batch_end(self, batch, logs=None):
        if self.requested:
            self.save()
            raise KeyboardInterrupt

    def _request(self, *_):
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self.console.print("stopping after this update; Ctrl-C again stops at once, unsaved")
