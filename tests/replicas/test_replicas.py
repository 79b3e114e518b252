"""n replicas with an nth of the batch make the update of one replica with all of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # two processes, which compile a dozen models between them
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def results():
    """What `compare.py` found with 2 and 4 replicas, in a process for each."""
    processes = {
        count: subprocess.Popen(
            [sys.executable, "-m", "tests.replicas.compare", str(count)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        for count in (2, 4)
    }
    found = {}
    for count, process in processes.items():
        stdout, stderr = process.communicate(timeout=3000)
        assert process.returncode == 0, stderr
        lines = [json.loads(line) for line in stdout.splitlines()]
        found[count] = {name: result for line in lines for name, result in line.items()}
    return found


@pytest.mark.parametrize("count", [2, 4])
def test_logical_cpus_are_replicas(results, count):
    assert results[count]["counts"] == [1, count, f"{count} CPUs"]


@pytest.mark.parametrize(
    ("count", "case"),
    [
        *((2, case) for case in ("vision", "vision XLA", "speech", "text", "batch norm")),
        *((4, case) for case in ("vision", "text")),
    ],
)
def test_replicas_equal_one(results, count, case):
    """Logs, weights, teacher, Adam's moments: after updates of clipped gradients with decay."""
    in_logs, in_variables, mirrored = results[count][case]
    assert in_logs < 1e-4 and in_variables < 1e-5
    assert mirrored


def test_each_replica_draws_dropout_of_its_own_and_the_seeds_stay_equal(results):
    assert results[2]["dropout"] == [True, True]


def test_each_replica_traces_its_update_once_in_fifty(results):
    assert results[2]["traces"] == [50, [0, 1]]


def test_fine_tuning_in_replicas_equals_one(tmp_path):
    """Texts, of which XLA compiles the half before the all-reduce, and recordings; and a whole
    run that two replicas begin, one goes on with, and two end."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.replicas.finetune", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr
    found = {k: v for line in done.stdout.splitlines() for k, v in json.loads(line).items()}
    for name in ("texts", "speech", "run"):
        in_losses, in_variables = found[name][:2]
        assert in_losses < 1e-5 and in_variables < 1e-6, name
    assert found["run"][2:] == [True, True]  # it had two, and was resumed
