"""`tools/pretrain.py` as a user runs it, in processes of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "model.num_layers=2",
    "model.hidden_dim=16",
    "model.num_heads=2",
    "model.intermediate_dim=32",
    "model.drop_path_rate=0.3",  # random state that a resume must bring back
    "data2vec.num_target_layers=2",
    "precision=float32",
    "xla=false",
    "batch_size=8",
    "log_every=1",
]


def command(*arguments, settings=()):
    sets = [word for setting in (*TINY, *settings) for word in ("--set", setting)]
    tool = str(ROOT / "tools" / "pretrain.py")
    return [sys.executable, tool, "--modality=vision", *arguments, *sets]


def run(*arguments, settings=(), cwd=None):
    return subprocess.run(
        command(*arguments, settings=settings),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def losses(workdir):
    lines = (Path(workdir) / "metrics.jsonl").read_text().splitlines()
    return {record["step"]: record["loss"] for record in map(json.loads, lines)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run on the embedded digits, from first to last update."""
    workdir = tmp_path_factory.mktemp("runs") / "digits"
    done = run(f"--workdir={workdir}", settings=["steps=14", "checkpoint_every=4", "probe_every=7"])
    assert done.returncode == 0, done.stderr
    return workdir, done


def test_a_run_leaves_everything_behind(finished):
    workdir, done = finished
    assert {p.name for p in workdir.iterdir()} >= {
        "config.yaml",
        "metrics.jsonl",
        "probes.jsonl",
        "checkpoints",
        "tensorboard",
        "preset",
    }
    record = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert record["step"] == 14
    assert set(record) >= {
        "loss",
        "target_var",
        "pred_var",
        "ema_decay",
        "learning_rate",
        "examples_per_second",
    }
    assert yaml.safe_load((workdir / "config.yaml").read_text())["steps"] == 14
    assert "1,438 examples" in done.stdout
    assert "8 examples an update" in done.stdout
    # The recipe file says 32: results depend on it, so a smaller batch is said aloud.
    assert "the recipe is for batches of 32, not 8" in done.stdout


def test_probes_stand_beside_untrained_and_raw(finished):
    workdir, done = finished
    records = [json.loads(line) for line in (workdir / "probes.jsonl").read_text().splitlines()]
    assert [(r["of"], r["step"]) for r in records] == [
        ("raw pixels", 0),
        ("untrained", 0),
        ("pre-trained", 7),
        ("pre-trained", 14),
    ]
    # Raw pixels name most digits; one in ten would mean that labels and images do not match.
    assert records[0]["linear"] > 0.9 and records[0]["knn"] > 0.9
    for record in records:
        assert f"{100 * record['linear']:.1f}" in done.stdout


def test_the_preset_gives_the_backbone_and_the_normalisation_back(finished):
    import keras_hub
    import numpy as np

    import d2v_tf
    from d2v_tf.training.vision import Data2VecImageConverter

    workdir, _ = finished
    backbone = keras_hub.models.Backbone.from_preset(str(workdir / "preset"))
    assert isinstance(backbone, d2v_tf.Data2VecVisionBackbone)
    assert (backbone.num_layers, backbone.hidden_dim) == (2, 16)
    converter = Data2VecImageConverter.from_preset(str(workdir / "preset"))
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")
    # mean 0.5, std 0.25 in the recipe
    np.testing.assert_allclose(converter(images), (images / 255 - 0.5) / 0.25, atol=1e-5)


def test_a_finished_run_has_nothing_left_to_do(finished):
    workdir, _ = finished
    before = (workdir / "metrics.jsonl").read_text()
    again = run(
        f"--workdir={workdir}", settings=["steps=14", "checkpoint_every=4", "probe_every=7"]
    )
    assert again.returncode == 0, again.stderr
    assert "resuming after step 14" in again.stdout
    assert (workdir / "metrics.jsonl").read_text() == before


def test_kill_9_and_the_same_command_give_the_losses_of_an_unbroken_run(finished, tmp_path):
    unbroken, _ = finished
    workdir = tmp_path / "killed"
    settings = ["steps=14", "checkpoint_every=4", "probe_every=7"]
    process = subprocess.Popen(
        command(f"--workdir={workdir}", settings=settings),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.time() + 200
    while not (workdir / "metrics.jsonl").exists() or max(losses(workdir), default=0) < 6:
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    resumed = run(f"--workdir={workdir}", settings=settings)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming after step" in resumed.stdout  # 4, or 8 where the kill came late
    assert losses(workdir) == losses(unbroken)


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    workdir = tmp_path / "interrupted"
    settings = ["steps=100000", "checkpoint_every=100000", "probe_every=0"]
    process = subprocess.Popen(
        command(f"--workdir={workdir}", settings=settings),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.time() + 200
    while not (workdir / "metrics.jsonl").exists() or len(losses(workdir)) < 3:
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"the same command continues the run in {workdir}" in stderr
    assert "Traceback" not in stderr
    assert list((workdir / "checkpoints").glob("step-*.index"))


def test_another_recipe_in_the_same_workdir_is_refused(finished):
    workdir, _ = finished
    done = run(f"--workdir={workdir}", settings=["steps=14", "probe_every=7", "seed=5"])
    assert done.returncode == 1
    assert "seed was 0 and is 5" in done.stderr
    assert "choose another --workdir" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (["--data=folder:/nowhere"], [], "folder:/nowhere is not a folder"),
        (["--data=foldr:x"], [], "Did you mean folder?"),
        (["--config=/nowhere.yaml"], [], "/nowhere.yaml: cannot be read"),
        ([], ["optimizer.learning_rte=1"], "Did you mean optimizer.learning_rate?"),
        ([], ["mask.ratio=1.5"], "mask.ratio: 1.5 is not"),
        (["--workdir=/proc/nowhere"], [], "--workdir=/proc/nowhere cannot be written"),
    ],
)
def test_a_users_mistake_is_one_line(tmp_path, arguments, settings, message):
    if not any(a.startswith("--workdir") for a in arguments):
        arguments = [*arguments, f"--workdir={tmp_path}/run"]
    done = run(*arguments, settings=settings)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_help_and_a_wrong_flag_answer_at_once():
    tool = [sys.executable, str(ROOT / "tools" / "pretrain.py")]
    help_ = subprocess.run([*tool, "--help"], capture_output=True, text=True, timeout=60)
    assert "--modality" in help_.stdout and "tfrecord:GLOB" in help_.stdout
    wrong = subprocess.run(
        [*tool, "--modality=vision", "--stepz=3"], capture_output=True, text=True, timeout=60
    )
    assert wrong.returncode == 1 and "stepz" in wrong.stderr
    assert "Traceback" not in wrong.stderr
