"""`tools/pretrain.py` as a user runs it, in processes of its own; a few are not forked."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.data.images import encode, picture, write_tree
from tests.forked_tools import run_tool

ROOT = Path(__file__).resolve().parents[2]
SPEECH_TINY = ROOT / "configs" / "pretrain" / "speech_tiny.yaml"
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
    "data.probe_examples=40",
]


def arguments_of(*arguments, settings=()):
    sets = [word for setting in (*TINY, *settings) for word in ("--set", setting)]
    return ["--modality=vision", *arguments, *sets]


def command(*arguments, settings=()):
    tool = str(ROOT / "tools" / "pretrain.py")
    return [sys.executable, tool, *arguments_of(*arguments, settings=settings)]


def run(*arguments, settings=()):
    return run_tool("pretrain.py", *arguments_of(*arguments, settings=settings))


def run_anew(*arguments, settings=()):
    """Not forked: modules are imported, seeds of hashes drawn, as in any process."""
    return subprocess.run(
        command(*arguments, settings=settings),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def stopped_by(number, workdir, *arguments, settings=()):
    """Sends a signal to a run after three updates; (exit status, what it said on stderr)."""
    process = subprocess.Popen(
        command(f"--workdir={workdir}", *arguments, settings=settings),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.time() + 200
    while not (workdir / "metrics.jsonl").exists() or len(losses(workdir)) < 3:
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr


def losses(workdir):
    lines = (Path(workdir) / "metrics.jsonl").read_text().splitlines()
    return {record["step"]: record["loss"] for record in map(json.loads, lines)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run on the embedded digits, from first to last update."""
    workdir = tmp_path_factory.mktemp("runs") / "digits"
    settings = ["steps=14", "checkpoint_every=4", "probe_every=7", "data.probe_examples=1000"]
    done = run_anew(f"--workdir={workdir}", settings=settings)
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

    import d2v_tf

    workdir, _ = finished
    backbone = keras_hub.models.Backbone.from_preset(str(workdir / "preset"))
    assert isinstance(backbone, d2v_tf.Data2VecVisionBackbone)
    assert (backbone.num_layers, backbone.hidden_dim) == (2, 16)
    converter = d2v_tf.Data2VecImageConverter.from_preset(str(workdir / "preset"))
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
    assert "the run ended after step 14: there is nothing left to train" in again.stdout
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
    status, stderr = stopped_by(signal.SIGINT, workdir, settings=settings)
    assert status == 130
    assert f"the same command continues the run in {workdir}" in stderr
    again = stderr.splitlines()[-1]
    assert "tools/pretrain.py --modality=vision" in again and f"--workdir={workdir}" in again
    assert "Traceback" not in stderr
    assert "oneDNN" not in stderr and "absl::InitializeLog" not in stderr  # TensorFlow's own lines
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
        (["--data=folder:/no: where #1"], [], "folder:/no: where #1 is not a folder"),
        (["--config=/nowhere.yaml"], [], "/nowhere.yaml: cannot be read"),
        ([f"--config={SPEECH_TINY}"], [], "is a recipe for speech, and --modality=vision"),
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


def test_too_many_bad_files_with_labels_are_one_line(tmp_path):
    """The probes read them before the first update does."""
    paths = write_tree(tmp_path / "photos", 40)
    for path in paths[:4]:
        path.write_bytes(b"no image")
    done = run(f"--data=folder:{tmp_path}/photos", f"--workdir={tmp_path}/run")
    assert done.returncode == 1
    assert "of 40 examples of folder:" in done.stderr and "could not be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_eval_source_has_the_class_numbers_of_training(tmp_path):
    """Of two classes the test folder has the second one only, which is its own first."""
    for i, path in enumerate(write_tree(tmp_path / "train", 40)):
        level = 40 if path.parent.name == "cat" else 200
        path.write_bytes(encode(np.full((40, 48, 3), level + i % 5, "uint8")))
    for path in write_tree(tmp_path / "test", 6, classes=("dog",)):
        path.write_bytes(encode(np.full((40, 48, 3), 200, "uint8")))
    done = run(
        f"--data=folder:{tmp_path}/train",
        f"--workdir={tmp_path}/run",
        settings=["steps=1", f"data.eval_source=folder:{tmp_path}/test"],
    )
    assert done.returncode == 0, done.stderr
    first = json.loads((tmp_path / "run" / "probes.jsonl").read_text().splitlines()[0])
    assert (first["of"], first["linear"]) == ("raw pixels", 1.0)
    (tmp_path / "test" / "emu").mkdir()
    (tmp_path / "test" / "emu" / "a.png").write_bytes(encode(picture(0)))
    done = run(
        f"--data=folder:{tmp_path}/train",
        f"--workdir={tmp_path}/other",
        settings=["steps=1", f"data.eval_source=folder:{tmp_path}/test"],
    )
    assert done.returncode == 1 and "classes that the training set lacks: emu" in done.stderr


def test_the_preset_is_found_with_the_package_alone(finished):
    """In a process of its own: here other tests have imported more."""
    workdir, _ = finished
    code = (
        "import sys, keras_hub, d2v_tf; folder = sys.argv[1]\n"
        "print(type(keras_hub.models.Backbone.from_preset(folder)).__name__)\n"
        "print(type(keras_hub.layers.ImageConverter.from_preset(folder)).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(workdir / "preset")],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["Data2VecVisionBackbone", "Data2VecImageConverter"], done.stderr


@pytest.mark.parametrize("xla", ["true", "parts"])
def test_what_is_compiled_resumes_exactly_too(tmp_path, xla):
    """A process of its own may draw other random numbers than the one that was stopped."""
    (tmp_path / "images").mkdir()
    for number in range(9):  # without classes, so that nothing is probed
        (tmp_path / "images" / f"{number}.png").write_bytes(encode(picture(number)))
    settings = ["steps=6", "checkpoint_every=3", "probe_every=0", f"xla={xla}", "model.dropout=0.1"]
    settings.append(f"data.source=folder:{tmp_path}/images")
    done = run_anew(f"--workdir={tmp_path}/run", settings=settings)
    assert done.returncode == 0, done.stderr
    unbroken = losses(tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints").glob("step-6*"):
        file.unlink()
    again = run_anew(f"--workdir={tmp_path}/run", settings=settings)
    assert "resuming after step 3" in again.stdout, again.stderr
    assert losses(tmp_path / "run") == unbroken


def test_help_and_a_wrong_flag_answer_at_once():
    tool = [sys.executable, str(ROOT / "tools" / "pretrain.py")]
    help_ = subprocess.run([*tool, "--help"], capture_output=True, text=True, timeout=60)
    assert "--modality" in help_.stdout and "tfrecord:GLOB" in help_.stdout
    wrong = subprocess.run(
        [*tool, "--modality=vision", "--stepz=3"], capture_output=True, text=True, timeout=60
    )
    assert wrong.returncode == 1 and "stepz" in wrong.stderr
    assert "Traceback" not in wrong.stderr
