"""What a run does in a bad moment and at a bad end, and says when it goes on with other data."""

import io
import json
import os
import threading
import types

import keras
import pytest
from rich.console import Console

from d2v_tf.backbones.backbone import Data2VecBackbone
from d2v_tf.config import load_recipe
from d2v_tf.data import reading
from d2v_tf.training import checkpoints, fitting, pretrain, run
from d2v_tf.training.guard import RunStopped
from d2v_tf.training.machine import data_facts, note_start, other_data
from d2v_tf.training.modalities import modality_of
from d2v_tf.training.workdir import WorkdirError
from tests.data.images import write_tree
from tests.end_to_end.test_pretrain import ROOT, TINY


@pytest.fixture
def start(tmp_path):
    """Starts, and starts again, a run of one update on ten photos; gives back what it prints."""
    write_tree(tmp_path / "photos", 10, classes=("",))
    settings = ["model.num_layers=1", "data2vec.num_target_layers=1", "data.max_bad=0"]
    settings += [f"data.source=folder:{tmp_path}/photos", "steps=1"]
    recipe = load_recipe(ROOT / "configs" / "pretrain" / "vision_tiny.yaml", [*TINY, *settings])

    def start():
        console = Console(file=io.StringIO(), width=1000)
        pretrain.pretrain(recipe, str(tmp_path / "run"), console)
        return console.file.getvalue()

    return start


def test_the_end_of_a_run_that_fails_in_every_way(start, tmp_path, monkeypatch):
    paths, pauses = sorted((tmp_path / "photos").iterdir()), []
    content, lock = paths[3].read_bytes(), threading.Lock()
    monkeypatch.setattr(fitting, "Pictures", lambda *_: keras.callbacks.Callback())
    monkeypatch.setattr(pretrain, "report_at_end", lambda *_: None)

    # A photo cannot be read twice, and then it can.
    def break_one(*arguments):
        paths[3].unlink()
        paths[3].symlink_to(paths[3])  # a loop: there, and not to be read
        return build_model(*arguments)

    def sleep(seconds):
        with lock:  # of several threads, which read it for one epoch and for the next
            pauses.append(seconds)
            if seconds == 5.0 and paths[3].is_symlink():
                (tmp_path / "whole").write_bytes(content)
                os.replace(tmp_path / "whole", paths[3])  # at once: others read meanwhile

    build_model = run.build_model
    with monkeypatch.context() as patch:
        patch.setattr(run, "build_model", break_one)
        patch.setattr(reading, "time", types.SimpleNamespace(sleep=sleep))
        # And the state of the last update is none that can be saved.
        patch.setattr(checkpoints, "all_finite", lambda _: False)
        with pytest.raises(RunStopped, match="not finite after the last update, 1: it is not save"):
            start()
    assert set(pauses) == {1.0, 5.0}
    record = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert record["bad_examples"] == 0
    assert not list(tmp_path.glob("run/checkpoints/step-*"))

    # The disk is full when the backbone is to be written.
    def full(_, path):
        os.mkdir(path)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Data2VecBackbone, "save_to_preset", full)
        with pytest.raises(WorkdirError, match="written to .*/run .No space left.* same command"):
            start()
    assert not list(tmp_path.glob("run/preset*"))
    assert "backbone: " in start() and (tmp_path / "run" / "preset" / "config.json").exists()


def test_data_that_changed_between_two_starts_is_noticed(tmp_path):
    paths, workdir = write_tree(tmp_path / "photos", 1200), str(tmp_path)
    settings = [f"data.source=folder:{tmp_path}/photos", "steps=9"]
    recipe = load_recipe(ROOT / "configs" / "pretrain" / "vision_tiny.yaml", settings)

    def data():
        return modality_of(recipe).open_data(recipe, warn=print)

    assert other_data(workdir, data()) is None  # of a run older than this, nothing is known
    note_start(workdir, 0, "1 CPU", **data_facts(data()))
    assert other_data(workdir, data()) is None
    content = paths[7].read_bytes()
    paths[7].unlink()
    assert other_data(workdir, data()).startswith(
        f"folder:{tmp_path}/photos has 1,199 examples and had 1,200 when the run began. The order "
    )
    (tmp_path / "photos" / "cat" / "new.png").write_bytes(content)
    assert "other examples than it had, 1,200 as before, when the run" in other_data(
        workdir, data()
    )
    note_start(workdir, 5, "1 CPU", **data_facts(data()))  # it goes on, and is told again
    assert other_data(workdir, data())
    note_start(workdir, 0, "1 CPU", **data_facts(data()))  # it begins anew
    assert other_data(workdir, data()) is None
