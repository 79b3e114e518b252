"""Ctrl-C: the first waits for the update to end and saves, the second does not."""

import io
import os
import signal
import threading

import pytest
from rich.console import Console

from d2v_tf.training.interrupt import StopOnRequest, Terminated


@pytest.fixture
def stop():
    saved = []
    stop = StopOnRequest(lambda: saved.append("saved"), Console(file=io.StringIO()))
    stop.saved = saved
    return stop


def test_the_first_waits_for_the_end_of_the_update(stop):
    with stop:
        stop.on_train_batch_end(0)
        os.kill(os.getpid(), signal.SIGINT)  # in the middle of an update: nothing is raised
        assert stop.saved == []
        assert "stopping after this update" in stop.console.file.getvalue()
        with pytest.raises(KeyboardInterrupt):
            stop.on_train_batch_end(1)
    assert stop.saved == ["saved"]


def test_the_second_stops_at_once_unsaved(stop):
    with stop:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()
    assert stop.saved == []


def test_the_handler_is_given_back_after_an_error_too(stop):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), stop:
        assert signal.getsignal(signal.SIGINT) != before
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) == before


def test_another_thread_trains_without_the_handler(stop):
    before, errors = signal.getsignal(signal.SIGINT), []

    def train():
        try:
            with stop:
                stop.on_train_batch_end(0)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert not errors and signal.getsignal(signal.SIGINT) == before


def test_sigterm_saves_and_ends_with_the_status_of_a_signal(stop):
    with stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # schedulers send it again
        assert stop.saved == []
        with pytest.raises(Terminated) as caught:
            stop.on_train_batch_end(0)
    assert stop.saved == ["saved"] and caught.value.exit_status == 143


def test_a_worker_stops_with_the_one_that_was_told_to():
    saved, asked = [], []

    def anybody(requested):
        asked.append(requested)
        return len(asked) == 2

    stop = StopOnRequest(lambda: saved.append(1), Console(file=io.StringIO()), anybody)
    stop.on_train_batch_end(0)
    with pytest.raises(Terminated):
        stop.on_train_batch_end(1)
    assert asked == [False, False] and saved == [1]
