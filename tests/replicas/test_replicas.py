"""n replicas with an nth of the batch make the update of one replica with all of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def results():
    """What `compare.py` found, in a process that has four logical CPUs."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.replicas.compare"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=3000,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr
    merged = {}
    for line in done.stdout.splitlines():
        merged.update(json.loads(line))
    return merged


def test_logical_cpus_are_replicas(results):
    assert results["counts"] == [1, 2, 4, "4 CPUs"]


@pytest.mark.parametrize(
    "case",
    [
        *(f"{case} {n}" for case in ("vision", "speech", "text", "batch norm") for n in (2, 4)),
        "vision XLA",
    ],
)
def test_replicas_equal_one(results, case):
    """Logs, weights, teacher, Adam's moments: after updates of clipped gradients with decay."""
    in_logs, in_variables, mirrored = results[case]
    assert in_logs < 1e-4 and in_variables < 1e-5
    assert mirrored


def test_each_replica_draws_dropout_of_its_own_and_the_seeds_stay_equal(results):
    assert results["dropout"] == [True, True]
