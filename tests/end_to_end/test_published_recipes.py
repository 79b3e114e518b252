"""The paper's sizes build, step, save and resume, at a batch that fits anywhere."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.data.images import write_tree

ROOT = Path(__file__).resolve().parents[2]


def start(recipe, photos, workdir):
    settings = ["batch_size=2", "log_every=1", "checkpoint_every=100", "precision=float32"]
    settings += ["schedule.warmup_steps=1", "steps=3", "keep_checkpoints=1", "xla=false"]
    return subprocess.Popen(
        [
            sys.executable,
            str(ROOT / "tools" / "pretrain.py"),
            "--modality=vision",
            f"--config={ROOT}/configs/pretrain/{recipe}.yaml",
            f"--data=folder:{photos}",
            f"--workdir={workdir}",
            *(word for setting in settings for word in ("--set", setting)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow  # 86 and 304 million parameters, four times each: student, teacher, Adam's two
@pytest.mark.parametrize("recipe", ["vision_base", "vision_large"])
def test_a_published_recipe_steps_saves_and_resumes(tmp_path, recipe):
    photos, workdir = tmp_path / "photos", tmp_path / "run"
    write_tree(photos, 4)
    process = start(recipe, photos, workdir)
    metrics = workdir / "metrics.jsonl"
    deadline = time.time() + 500
    while not metrics.exists() and time.time() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)  # after the first update: it saves before it stops
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 130, stderr
    process = start(recipe, photos, workdir)
    stdout, stderr = process.communicate(timeout=800)
    assert process.returncode == 0, stderr
    assert "resuming after step" in stdout
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [r["step"] for r in records] == [1, 2, 3]
    assert np.isfinite([r["loss"] for r in records]).all()
    assert (workdir / "preset" / "model.weights.h5").stat().st_size > 300e6
