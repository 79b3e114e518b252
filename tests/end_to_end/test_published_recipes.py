"""The paper's sizes build, step, save and resume, at a batch that fits anywhere."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.data.audio import write_tree as write_utterances
from tests.data.images import write_tree as write_photos
from tests.data.texts import write_corpus

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [
    "batch_size=1",
    "log_every=1",
    "checkpoint_every=100",
    "precision=float32",
    "schedule.warmup_steps=1",
    "steps=3",
    "keep_checkpoints=1",
    "xla=false",
]
TRI_STAGE = ["schedule.hold_steps=1", "schedule.decay_steps=1"]


def write_examples(modality, folder):
    """Writes a few examples of a modality; returns their source, and settings that suit them."""
    if modality == "vision":
        write_photos(folder, 4)
        return f"folder:{folder}", []
    if modality == "speech":
        write_utterances(folder, [2.5, 2.2, 2.8, 2.1])
        return f"folder:{folder}", [*TRI_STAGE, "data.max_seconds=3"]
    write_corpus(folder, 6)
    return f"text:{folder}/*.txt", TRI_STAGE


def start(modality, recipe, source, workdir, settings):
    return subprocess.Popen(
        [
            sys.executable,
            str(ROOT / "tools" / "pretrain.py"),
            f"--modality={modality}",
            f"--config={ROOT}/configs/pretrain/{recipe}.yaml",
            f"--data={source}",
            f"--workdir={workdir}",
            *(word for setting in (*SETTINGS, *settings) for word in ("--set", setting)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def stop_after_an_update(process, metrics):
    deadline = time.time() + 500
    while not metrics.exists() and time.time() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)  # it saves before it stops
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 130, stderr


@pytest.fixture
def alone(tmp_path_factory):
    """Of the processes that run tests, one at a time is here: Large takes up to 10 GB."""
    base = tmp_path_factory.getbasetemp()  # a process has a folder of its own in the run's
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with open(shared / "published.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# Student, teacher and Adam's two: four times the weights, most of them twice while they are saved.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "parameters"),
    [
        ("vision_base", 86e6),
        ("vision_large", 304e6),
        ("speech_base", 93e6),
        ("speech_large", 313e6),
        ("text_base", 124e6),
    ],
)
def test_a_published_recipe_steps_and_saves_and_resumes(alone, tmp_path, recipe, parameters):
    """Large does not go on: that takes as long again, and no other code."""
    modality, size = recipe.split("_")
    source, settings = write_examples(modality, tmp_path / "examples")
    workdir = tmp_path / "run"
    metrics = workdir / "metrics.jsonl"
    stop_after_an_update(start(modality, recipe, source, workdir, settings), metrics)
    (state,) = (workdir / "checkpoints").glob("step-[12].data-*")
    # The student, Adam's two numbers for each of its weights, and the teacher, which is its blocks.
    assert state.stat().st_size == pytest.approx(16 * parameters, rel=0.15)
    if size == "base":
        process = start(modality, recipe, source, workdir, settings)
        stdout, stderr = process.communicate(timeout=800)
        assert process.returncode == 0, stderr
        assert "resuming after step" in stdout
        preset = (workdir / "preset" / "model.weights.h5").stat().st_size
        assert preset == pytest.approx(4 * parameters, rel=0.02)
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [r["step"] for r in records] == list(range(1, len(records) + 1))
    assert len(records) == 3 or size == "large"
    assert np.isfinite([r["loss"] for r in records]).all()
    shutil.rmtree(workdir)  # gigabytes, which pytest would keep for three sessions
