"""Which processes train together, by `TF_CONFIG` or Slurm's variables."""

import json
import re

import tensorflow as tf

from d2v_tf.errors import UserError

# A job's workers meet at ports of these, each job at others: two may share a node. From 32,768 on
# Linux gives ports to whoever asks for any.
SLURM_PORTS = range(20_000, 32_768)
PORTS_OF_JOB = 16
# Where Slurm has given each task of a node GPUs of its own.
BOUND_GPUS = ("SLURM_GPUS_PER_TASK", "SLURM_TRES_PER_TASK", "SLURM_GPU_BIND", "SLURM_TRES_BIND")


class StrategyError(UserError):
    """Devices or processes that are not there, with what to do about it."""


def read_cluster(environ):
    """Who trains together and which of them this process is.

    Of a node's GPUs that all its Slurm tasks see, TensorFlow sees this task's part afterwards.

    Args:
        environ: dict of environment variables, with `TF_CONFIG` or Slurm's.

    Returns:
        (cluster, job, index) as in `TF_CONFIG`.

    Raises:
        StrategyError: where nothing says it, or a Slurm step is not as it has to be.
    """
    if "TF_CONFIG" in environ:
        try:
            config = json.loads(environ["TF_CONFIG"])
            cluster, task = config["cluster"], config["task"]
            job, index = task["type"], int(task["index"])
            cluster[job][index]
            if index < 0 or set(cluster) - {"chief", "worker"}:
                raise KeyError
            if not all(re.fullmatch(r".+:\d+", a) for group in cluster.values() for a in group):
                raise ValueError
            return cluster, job, index
        except (ValueError, KeyError, IndexError, TypeError):
            raise StrategyError(
                f"--strategy=multiworker: TF_CONFIG is {environ['TF_CONFIG'][:200]!r}. Expected "
                '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", '
                '"index": 0}}, the index another in every process.'
            ) from None
    return _read_slurm(environ)


def _read_slurm(environ):
    try:
        hosts = expand_hosts(environ["SLURM_STEP_NODELIST"])
        tasks = _expand_counts(environ["SLURM_STEP_TASKS_PER_NODE"])
        rank, job_id = int(environ["SLURM_PROCID"]), int(environ["SLURM_JOB_ID"])
        places = [
            (host, task) for host, count in zip(hosts, tasks, strict=True) for task in range(count)
        ]
        host, task = places[rank]
    except (KeyError, ValueError, IndexError) as error:
        reason = f"{error.args[0]} is not set" if isinstance(error, KeyError) else error
        raise StrategyError(
            "--strategy=multiworker: neither TF_CONFIG nor Slurm says which processes train "
            f"together ({reason}). Start it by srun, or set TF_CONFIG."
        ) from None
    here = environ.get("SLURMD_NODENAME", host)
    distribution = environ.get("SLURM_DISTRIBUTION", "block").split(":")[0].split(",")[0]
    in_blocks = len(hosts) == 1 or max(tasks) == 1 or distribution in ("block", "unknown")
    if here != host or not in_blocks:
        raise StrategyError(
            f"--strategy=multiworker: task {rank} runs on {here}, and is expected on {host}, for "
            "tasks are taken to fill one node after the other. Start it by srun "
            "--distribution=block."
        )
    _take_own_gpus(environ, tasks[hosts.index(host)], task)
    span = max(PORTS_OF_JOB, *tasks)
    port = SLURM_PORTS[job_id % (len(SLURM_PORTS) // span) * span]
    return {"worker": [f"{host}:{port + task}" for host, task in places]}, "worker", rank


def _take_own_gpus(environ, num_tasks, task):
    """Of the GPUs of a node that all its tasks see, leaves this task an equal part."""
    gpus = tf.config.list_physical_devices("GPU")
    on_node = environ.get("SLURM_GPUS_ON_NODE", "")
    has_own = any(name in environ for name in BOUND_GPUS)
    has_own = has_own or (on_node.isdecimal() and len(gpus) < int(on_node))
    if num_tasks == 1 or not gpus or has_own:
        return
    each = len(gpus) // num_tasks
    if each * num_tasks != len(gpus):
        raise StrategyError(
            f"--strategy=multiworker: {num_tasks} tasks of a node see the same {len(gpus)} GPUs "
            "and cannot share them equally. Start one task a node (--ntasks-per-node=1), which "
            "uses all of them, or as many as divide them."
        )
    tf.config.set_visible_devices(gpus[task * each : (task + 1) * each], "GPU")


def expand_hosts(text):
    """The hosts of a Slurm list: `"gpu[08-10,12],login"` -> gpu08, gpu09, gpu10, gpu12, login.

    Raises:
        ValueError: for text that is none.
    """
    hosts = []
    for name in re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", text):
        names = [""]
        for plain, ranges in re.findall(r"([^\[]+)|\[([^\]]*)\]", name):
            parts = [plain] if plain else _expand_ranges(ranges)
            names = [start + part for start in names for part in parts]
        hosts += names
    if not hosts:
        raise ValueError(f"no hosts in {text!r}")
    return hosts


def _expand_ranges(text):
    numbers = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers += [
            str(number).zfill(len(first)) for number in range(int(first), int(last or first) + 1)
        ]
    return numbers


def _expand_counts(text):
    """Tasks of each node: `"2(x3),1"` -> 2, 2, 2, 1."""
    counts = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        counts += [int(count)] * int(times or 1)
    return counts
