"""Which devices a run gets, and what is said where they are not there."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from d2v_tf.training import cluster, strategy
from d2v_tf.training.cluster import StrategyError, expand_hosts
from d2v_tf.training.strategy import Replicas, check_one_shape, open_replicas, split_rows
from tests.end_to_end.lives import free_addresses

SLURM = {
    "SLURM_STEP_NODELIST": "gpu[2,10]",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
    "SLURM_PROCID": "2",
    "SLURM_JOB_ID": "123456",
}


def tf_config(index=1, job="worker", **cluster):
    cluster = cluster or {"worker": ["a:1", "b:2"]}
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": job, "index": index}})}


@pytest.fixture
def opened(monkeypatch):
    """What is told to TensorFlow's strategies, which are not made."""
    told = {}

    class Mirrored:
        def __init__(self, devices):
            told["devices"] = devices

    class MultiWorker:
        def __init__(self):
            told["config"] = json.loads(strategy.os.environ["TF_CONFIG"])

    monkeypatch.setattr(strategy.tf.distribute, "MirroredStrategy", Mirrored)
    monkeypatch.setattr(strategy.tf.distribute, "MultiWorkerMirroredStrategy", MultiWorker)
    monkeypatch.setattr(strategy, "meet", lambda *_: [])
    monkeypatch.setenv("TF_CONFIG", "")  # restored afterwards
    return told


def see(monkeypatch, num_gpus):
    class Device:
        def __init__(self, name):
            self.name = name

    devices = {"GPU": [Device(f"GPU:{i}") for i in range(num_gpus)], "CPU": [Device("CPU:0")]}
    monkeypatch.setattr(strategy.tf.config, "list_logical_devices", lambda kind: devices[kind])


def refusal(name, environ=None):
    with pytest.raises(StrategyError) as caught:
        open_replicas(name, environ or {})
    return str(caught.value)


def test_without_a_gpu_auto_is_the_cpu():
    replicas = open_replicas("auto")
    assert replicas.count == 1 and replicas.is_chief and replicas.num_workers == 1
    assert replicas.strategy is tf.distribute.get_strategy()
    assert replicas.describe() == "1 CPU"


@pytest.mark.parametrize("name", ["auto", "mirrored"])
def test_several_gpus_are_all_used(name, monkeypatch, opened):
    see(monkeypatch, 3)
    open_replicas(name)
    assert opened["devices"] == ["GPU:0", "GPU:1", "GPU:2"]


def test_one_gpu_needs_no_replicas(monkeypatch, opened):
    see(monkeypatch, 1)
    assert open_replicas("auto").strategy is tf.distribute.get_strategy()
    assert "at least two GPUs, and TensorFlow sees 1 GPU" in refusal("mirrored")
    assert opened == {}


def test_what_is_not_there_is_said(monkeypatch):
    see(monkeypatch, 0)
    assert "at least two GPUs, and TensorFlow sees no GPU" in refusal("mirrored")
    assert refusal("mirored").startswith("--strategy=mirored is not one of auto, cpu, mirrored")
    assert "is not one of" in refusal("cpu:1")
    assert "no TPU at local. On a TPU VM, install tensorflow-tpu" in refusal("tpu")


def test_tf_config_names_the_workers(opened):
    replicas = open_replicas("multiworker", tf_config())
    assert (replicas.num_workers, replicas.worker, replicas.is_chief) == (2, 1, False)
    assert opened["config"]["cluster"] == {"worker": ["a:1", "b:2"]}
    # A job named chief comes before all workers.
    replicas = open_replicas("multiworker", tf_config(1, chief=["c:1"], worker=["a:1", "b:2"]))
    assert (replicas.num_workers, replicas.worker) == (3, 2)
    replicas = open_replicas("multiworker", tf_config(0, "chief", chief=["c:1"], worker=["a:1"]))
    assert replicas.is_chief


def test_one_worker_needs_no_others(opened):
    replicas = open_replicas("multiworker", tf_config(0, worker=["a:1"]))
    assert (replicas.num_workers, replicas.count, opened) == (1, 1, {})


def test_slurm_names_the_workers(opened):
    """gpu2 comes before gpu10, as Slurm numbers its tasks."""
    replicas = open_replicas("multiworker", SLURM)
    assert (replicas.num_workers, replicas.worker) == (3, 2)
    assert opened["config"] == {
        "cluster": {"worker": ["gpu2:29024", "gpu2:29025", "gpu10:29024"]},
        "task": {"type": "worker", "index": 2},
    }


@pytest.mark.parametrize("tasks", ["1", "16", "17"])
def test_jobs_that_share_a_node_meet_at_other_ports(tasks):
    """All of them below those that Linux gives away."""
    ports = []
    for job in range(4_194_300, 4_195_300):
        slurm = {"SLURM_STEP_NODELIST": "a,b", "SLURM_STEP_TASKS_PER_NODE": f"{tasks}(x2)"}
        slurm["SLURM_PROCID"] = "1"
        found, *_ = cluster.read_cluster({**SLURM, **slurm, "SLURM_JOB_ID": str(job)})
        ports.append([int(address.split(":")[1]) for address in found["worker"]])
    for last, one in zip(ports, ports[1:], strict=False):
        assert not set(last) & set(one)
    assert min(map(min, ports)) >= 20_000 and max(map(max, ports)) < 32_768


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"SLURMD_NODENAME": "gpu2"}, "task 2 runs on gpu2, and is expected on gpu10"),
        ({"SLURM_DISTRIBUTION": "cyclic:block"}, "task 2 runs on gpu10, and is expected on gpu10"),
    ],
)
def test_tasks_that_do_not_fill_nodes_are_refused(opened, wrong, told):
    found = refusal("multiworker", {**SLURM, **wrong})
    assert told in found and found.endswith("Start it by srun --distribution=block.")
    right = {"SLURMD_NODENAME": "gpu10", "SLURM_DISTRIBUTION": "block:cyclic"}
    assert open_replicas("multiworker", {**SLURM, **right}, say=str).worker == 2
    one_each = {"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_PROCID": "1"}
    cyclic = {**SLURM, **one_each, "SLURM_DISTRIBUTION": "cyclic"}
    assert open_replicas("multiworker", cyclic, say=str).worker == 1


@pytest.fixture
def gpus(monkeypatch):
    """Eight GPUs of a machine, and those that are left visible."""
    left = [[f"GPU:{i}" for i in range(8)]]
    monkeypatch.setattr(cluster.tf.config, "list_physical_devices", lambda kind: left[0])
    monkeypatch.setattr(cluster.tf.config, "set_visible_devices", lambda g, _: left.append(g))
    return left


FOUR = {"SLURM_STEP_NODELIST": "a,b", "SLURM_STEP_TASKS_PER_NODE": "4(x2)", "SLURM_PROCID": "6"}


def test_tasks_that_see_the_same_gpus_share_them(opened, gpus):
    open_replicas("multiworker", {**SLURM, **FOUR, "SLURM_GPUS_ON_NODE": "8"}, say=str)
    assert gpus[1:] == [["GPU:4", "GPU:5"]]  # the third task of its node
    three = {**SLURM, **FOUR, "SLURM_STEP_TASKS_PER_NODE": "3(x2)", "SLURM_PROCID": "0"}
    assert "3 tasks of a node see the same 8 GPUs and cannot share them" in refusal(
        "multiworker", three
    )


@pytest.mark.parametrize(
    "own",
    [
        {"SLURM_GPUS_PER_TASK": "8"},
        {"SLURM_GPUS_ON_NODE": "32"},  # what this task sees is less
        {"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_PROCID": "1"},
    ],
)
def test_a_task_with_gpus_of_its_own_keeps_them(opened, gpus, own):
    open_replicas("multiworker", {**SLURM, **FOUR, **own}, say=str)
    assert gpus[1:] == []


def test_whom_a_worker_waits_for_is_said_before_it_waits(opened):
    said = []
    open_replicas("multiworker", tf_config(1, worker=["a:1", "b:2", "c:3"]), said.append)
    assert said == ["worker 1 of 0 to 2 waits for the others, at a:1, c:3"]


WAITING = """
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from d2v_tf.training import strategy
strategy.WAIT_SECONDS = {seconds}
if {inside}:
    strategy.meet = lambda *_: []
strategy.open_replicas('multiworker', os.environ)
"""


@pytest.mark.parametrize("inside", [False, True])
def test_a_worker_whose_others_do_not_come_ends(inside):
    """Before TensorFlow, and in it, where no signal and no error comes through."""
    mine, other = free_addresses(2)
    done = subprocess.run(
        [sys.executable, "-c", WAITING.format(seconds=0.5, inside=inside)],
        env={**os.environ, **tf_config(0, worker=[mine, other])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == f"worker 0 of 0 to 1 waits for the others, at {other}\n"
    told = f"worker 0 has waited 0.00833333 minutes for the others, at {other}. See what they "
    assert (
        f"{'error' if inside else 'StrategyError'}: --strategy=multiworker: {told}" in done.stderr
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -15), (signal.SIGINT, -2)])
def test_a_worker_that_waits_ends_when_it_is_told_to(number, code):
    mine, other = free_addresses(2)
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING.format(seconds=100, inside=False)],
        env={**os.environ, **tf_config(0, worker=[mine, other])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline().startswith("worker 0 of 0 to 1 waits")
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == code


def test_a_tpu_that_another_process_has_says_so(monkeypatch):
    def busy(tpu):
        raise RuntimeError("libtpu.so is already in use by process with pid 7\nmore")

    resolver = strategy.tf.distribute.cluster_resolver
    monkeypatch.setattr(strategy.tf.config, "list_physical_devices", lambda kind: ["TPU:0"])
    monkeypatch.setattr(resolver, "TPUClusterResolver", busy)
    assert refusal("tpu") == (
        "--strategy=tpu: the TPU at local cannot be used (libtpu.so is already in use by process "
        "with pid 7). If another process has it, end that one; if it is elsewhere, check its name "
        "or grpc:// address."
    )


@pytest.mark.parametrize(
    "environ",
    [
        {"TF_CONFIG": "{"},
        {"TF_CONFIG": "{}"},
        tf_config(2),
        tf_config(-1),
        tf_config(0, ps=["a:1"], worker=["b:1"]),
        tf_config(0, worker=["a", "b:1"]),
    ],
)
def test_a_wrong_tf_config_is_shown_beside_a_right_one(environ):
    told = refusal("multiworker", environ)
    assert "TF_CONFIG is '{" in told and '{"cluster": {"worker": ["host:port"' in told


@pytest.mark.parametrize("missing", SLURM)
def test_no_cluster_is_told_what_is_missing(missing):
    told = refusal("multiworker", {k: v for k, v in SLURM.items() if k != missing})
    assert missing in told and "Start it by srun, or set TF_CONFIG" in told


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("login", ["login"]),
        ("gpu[08-10,12],login", ["gpu08", "gpu09", "gpu10", "gpu12", "login"]),
        ("r[1-2]n[1,3]-ib", ["r1n1-ib", "r1n3-ib", "r2n1-ib", "r2n3-ib"]),
    ],
)
def test_lists_of_hosts(text, hosts):
    assert expand_hosts(text) == hosts


def test_a_batch_is_cut_into_equal_parts_in_order():
    batch = {"x": tf.range(12)[:, None] * tf.ones([1, 3], tf.int32), "mask": tf.range(12) > 5}
    whole = tf.data.Dataset.from_tensors(batch).repeat(2)
    parts = list(split_rows(whole, 3).as_numpy_iterator())
    assert len(parts) == 6
    for i, part in enumerate(parts):
        np.testing.assert_array_equal(part["x"], batch["x"][4 * (i % 3) : 4 * (i % 3) + 4])
        np.testing.assert_array_equal(part["mask"], batch["mask"][4 * (i % 3) : 4 * (i % 3) + 4])
    assert split_rows(whole, 3).element_spec["x"].shape == (4, 3)
    assert split_rows(whole, 1) is whole


def test_batches_of_unknown_size_are_cut_too():
    rows = [np.ones([4, 5], "float32"), np.zeros([2, 3], "float32")]
    whole = tf.data.Dataset.from_generator(
        lambda: rows, output_signature=tf.TensorSpec([None, None])
    )
    assert [p.shape for p in split_rows(whole, 2)] == [(2, 5), (2, 5), (1, 3), (1, 3)]


def test_a_tpu_takes_batches_of_one_shape():
    batches = tf.data.Dataset.from_tensors({"x": tf.zeros([4, 2])}).repeat()
    check_one_shape(batches.map(lambda b: b))
    with pytest.raises(StrategyError, match="one shape, and x is .None, 2.*data.buckets=1"):
        check_one_shape(batches.unbatch().batch(4))


def test_one_process_agrees_with_itself():
    replicas = Replicas(tf.distribute.get_strategy())
    assert replicas.gather(5) == [5]
