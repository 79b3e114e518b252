"""Ctrl-C: the first waits for the update to end and saves, the second does not."""

import io
import os
import signal
import threading

import keras
import pytest
from rich.console import Console

from d2v_tf.config import load_recipe
from d2v_tf.training import evidence, guard
from d2v_tf.training.interrupt import StopOnRequest, Terminated
from d2v_tf.training.logs import read_json_lines
from d2v_tf.training.pretrain import pretrain
from tests.end_to_end.test_pretrain import ROOT, TINY


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


def test_what_takes_long_is_looked_at_twice():
    stop = StopOnRequest(lambda: None, Console(file=io.StringIO()))
    again = stop.again_every(4, start=6)
    stop.requested = signal.SIGTERM
    again.on_train_batch_end(0)  # update 7
    with pytest.raises(Terminated):
        again.on_train_batch_end(1)


def test_no_probe_comes_between_sigterm_and_the_checkpoint(tmp_path, monkeypatch):
    """Before a probe the state is saved; it does not begin after SIGTERM, and ends at one."""
    settings = ["model.num_layers=1", "data2vec.num_target_layers=1", "data.probe_examples=40"]
    settings += ["steps=50", "probe_every=2", "checkpoint_every=50"]
    recipe = load_recipe(ROOT / "configs" / "pretrain" / "vision_tiny.yaml", [*TINY, *settings])
    checkpoints, probed = tmp_path / "checkpoints", []
    monkeypatch.setattr(evidence, "probe", lambda *_: {"knn": 0.5, "linear": 0.5})
    monkeypatch.setattr("d2v_tf.training.fitting.Pictures", lambda *_: keras.callbacks.Callback())
    updates, features = guard.HealthGuard.on_train_batch_end, evidence.mean_pooled_features

    def start():
        console = Console(file=io.StringIO(), width=200)
        with pytest.raises(Terminated):
            pretrain(recipe, str(tmp_path), console, quiet=True)
        return {int(path.stem.removeprefix("step-")) for path in checkpoints.glob("*.index")}

    def killed_in_update(self, batch, logs=None):
        updates(self, batch, logs)
        if self.start + batch + 1 == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(guard.HealthGuard, "on_train_batch_end", killed_in_update)
        assert start() == {2, 4}

    def slow_features(backbone, dataset):
        """Ends after its first batch, in which SIGTERM comes, or not at all."""
        probed.append({path.stem for path in checkpoints.glob("*.index")})
        if len(probed) <= 2:  # of update 4, made up for: training and test examples
            return features(backbone, dataset)
        for _ in dataset:
            os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("nobody stopped it")

    monkeypatch.setattr(evidence, "mean_pooled_features", slow_features)
    assert start() == {2, 4, 6}
    assert "step-6" in probed[2] and len(probed) == 3
    steps = [record["step"] for record in read_json_lines(tmp_path / "probes.jsonl")]
    assert steps == [0, 0, 2, 4]
