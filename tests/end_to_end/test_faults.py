"""What can happen to a run from outside, and what is left of it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.data.images import encode, picture
from tests.data.test_vision_sources import write_records
from tests.end_to_end.test_pretrain import ROOT, TINY, losses, run, stopped_by


def write_flat(folder):
    """A folder of images without classes, so that nothing is probed."""
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}.png").write_bytes(encode(picture(number)))
    return folder


def run_lives(module, folder, *settings):
    """Runs one of the modules beside this one; returns what it reports."""
    config = str(ROOT / "configs" / "pretrain" / "vision_tiny.yaml")
    tiny = [*TINY, "model.num_layers=1", "data2vec.num_target_layers=1", "data.probe_examples=20"]
    done = subprocess.run(
        [sys.executable, "-m", f"tests.end_to_end.{module}", config, folder, *tiny, *settings],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=3000,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow  # twenty-two lives of a run
def test_twenty_kills_change_nothing(tmp_path):
    """While it starts, between updates, while a checkpoint is written, and before it is named."""
    images = write_flat(tmp_path / "images")
    settings = ["steps=40", "checkpoint_every=2", f"data.source=folder:{images}"]
    result = run_lives("kill_loop", str(tmp_path), *settings)
    assert result["statuses"] == [0, *[-9] * 20, 0], (tmp_path / "output").read_text()
    assert result["half_written"] == 4  # of checkpoints that had no index
    assert not list(tmp_path.glob("killed/checkpoints/*_temp"))
    assert losses(tmp_path / "killed") == losses(tmp_path / "unbroken")
    assert sorted(losses(tmp_path / "killed")) == list(range(1, 41))
    assert_same_variables(tmp_path / "killed", tmp_path / "unbroken", 40, atol=0)


def assert_same_variables(run, other, step, atol):
    readers = [
        tf.train.load_checkpoint(str(folder / "checkpoints" / f"step-{step}"))
        for folder in (run, other)
    ]
    names = sorted(readers[0].get_variable_to_shape_map())
    assert names == sorted(readers[1].get_variable_to_shape_map()) and len(names) > 50
    for name in names:
        if "CHECKPOINTABLE" not in name and "save_counter" not in name:
            one, two = (r.get_tensor(name) for r in readers)
            np.testing.assert_allclose(one, two, rtol=0, atol=atol, err_msg=name)


@pytest.mark.slow  # eleven lives of a run, eight of them in pairs
def test_two_workers_stop_together_lose_each_other_and_one_replica_ends_the_run(tmp_path):
    """With the losses of a run that was never stopped and had one replica."""
    settings = [
        "model.drop_path_rate=0",  # each replica draws its own
        "optimizer.global_clipnorm=0.5",
        "checkpoint_every=4",
        "steps=30",
    ]
    result = run_lives("worker_loop", str(tmp_path), *settings)
    told = {name: (tmp_path / name).read_text() for name in ("chief", "worker", "alone")}
    # SIGTERM to one of them: both save and end with its status.
    assert result["stopped"] == [143, 143], told
    assert f"resuming after step {result['stopped_at']}" in told["chief"]
    # Death of one of them, or of the chief: the other one says so, and within a minute.
    assert result["lost"] == [1, -9] and result["seconds"] < 60, told
    assert result["lost_chief"] == [-9, 1] and result["seconds_without_chief"] < 60, told
    stops = "stops, for another one of the 2 does not answer"
    assert f"error: Worker 0 {stops}" in told["chief"] and "Traceback" not in told["chief"]
    # The chief speaks for both, and alone writes.
    assert "2 CPUs in 2 processes" in told["chief"]
    lines = told["worker"].splitlines()
    (lost,) = [line for line in lines if not line.startswith("worker 1 of 0 to 1 waits for the ")]
    assert lost.startswith(f"error: Worker 1 {stops} (Collective ops is aborted by: ")
    assert result["alone"] == [0, 0], told
    found, expected = losses(tmp_path / "run"), losses(tmp_path / "unbroken")
    assert sorted(found) == sorted(expected) == list(range(1, 31))
    steps = sorted(found)
    np.testing.assert_allclose([found[s] for s in steps], [expected[s] for s in steps], rtol=2e-4)

    # Two that nobody disturbs: one probes and writes the preset, both end well.
    assert result["together"] == [0, 0, 0], told
    run = tmp_path / "together"
    assert sorted(losses(run)) == [1, 2, 3] and (run / "preset" / "config.json").exists()
    probed = [json.loads(line) for line in (run / "probes.jsonl").read_text().splitlines()]
    assert [r["step"] for r in probed] == [0, 0, 2, 3]
    *_, backbone, page = told["chief"].splitlines()
    assert (backbone, page) == (f"backbone: {run}/preset", f"report: {run}/report.html")
    assert_same_variables(run, tmp_path / "apart", 3, atol=1e-5)


def test_sigterm_saves_and_ends_as_a_scheduler_expects(tmp_path):
    workdir = Path(tmp_path) / "run"
    settings = ["steps=100000", "checkpoint_every=100000", "data.probe_examples=20"]
    status, stderr = stopped_by(signal.SIGTERM, workdir, "--strategy=cpu", settings=settings)
    assert status == 143
    assert f"the same command continues the run in {workdir}" in stderr
    assert "Traceback" not in stderr
    assert (workdir / "checkpoints" / f"step-{max(losses(workdir))}.index").exists()


def test_a_loss_that_is_no_number_stops_the_run_and_no_such_state_is_saved(tmp_path):
    """The weights overflow in the first updates."""
    workdir = tmp_path / "run"
    settings = ["steps=20", "checkpoint_every=1", "optimizer.learning_rate=1e38"]
    settings += ["schedule.kind=constant", "schedule.warmup_steps=0", "data.probe_examples=20"]
    done = run(f"--workdir={workdir}", settings=settings)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: The loss is nan at step ") and "The last good checkpoint" in last
    saved = [int(p.stem.removeprefix("step-")) for p in workdir.glob("checkpoints/step-*.index")]
    assert all(step < int(last.split()[7].rstrip(".")) for step in saved)
    for step in saved:
        reader = tf.train.load_checkpoint(str(workdir / "checkpoints" / f"step-{step}"))
        for name, dtype in reader.get_variable_to_dtype_map().items():
            assert not dtype.is_floating or np.isfinite(reader.get_tensor(name)).all(), name


def test_a_file_that_cannot_be_read_in_the_middle_of_an_epoch_costs_itself_alone(tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(20):
        (tmp_path / "photos" / f"{i}.png").write_bytes(encode(picture(i)))
    (tmp_path / "photos" / "11.png").unlink()
    (tmp_path / "photos" / "11.png").symlink_to("nowhere")
    source, workdir = f"--data=folder:{tmp_path}/photos", tmp_path / "run"
    settings = ["steps=6", "data.max_bad=0.05"]  # 48 examples of 20: more than two epochs
    done = run(source, f"--workdir={workdir}", settings=settings)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if " is skipped: " in line]
    assert "photos/11.png" in line and max(losses(workdir)) == 6
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["bad_examples"] == 1


def test_a_corrupt_shard_is_named_and_put_right_the_run_goes_on(tmp_path):
    shards = tmp_path / "shards"
    shards.mkdir()
    for part in range(4):
        examples = [(f"{part}-{i}", encode(picture(i)), None) for i in range(16)]
        write_records(shards / f"part-{part}.tfrecord", examples)
    bad = shards / "part-2.tfrecord"
    good = bad.read_bytes()
    bad.write_bytes(good[:-300] + bytes([good[-300] ^ 1]) + good[-299:])
    arguments = f"--data=tfrecord:{shards}", f"--workdir={tmp_path}/run"
    settings = ["steps=10", "checkpoint_every=1"]
    done = run(*arguments, settings=settings)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: data: {bad} is corrupt: corrupted ")
    bad.write_bytes(good)
    again = run(*arguments, settings=settings)
    assert again.returncode == 0, again.stderr
    assert sorted(losses(tmp_path / "run")) == list(range(1, 11))
