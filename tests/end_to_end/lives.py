"""Lives of a run in forked processes: what is imported is imported once, not once a life.

A life starts in a second or two instead of ten, which lets a test have twenty of them. TensorFlow
must not have started before the fork, so the process that forks trains nothing itself.
"""

import functools
import json
import os
import signal
import socket
import sys
import time
import traceback

import tensorflow as tf
from rich.console import Console
from tensorflow.python.checkpoint import checkpoint_management

from d2v_tf.config import load_recipe
from d2v_tf.errors import UserError
from d2v_tf.training import checkpoints
from d2v_tf.training.interrupt import Terminated
from d2v_tf.training.pretrain import pretrain
from d2v_tf.training.strategy import open_replicas


def live(
    recipe,
    workdir,
    output,
    cluster=None,
    worker=0,
    dies_unnamed=False,
    eagerly=False,
    behind=0,
    in_background=False,
):
    """Starts one life of a run.

    Args:
        recipe: tuple of the arguments of `load_recipe`.
        workdir: str.
        output: str. A file that what is printed is added to.
        cluster: optional list of addresses, of all workers that train together.
        worker: int. Which of them this is.
        dies_unnamed: bool. Whether it dies with a checkpoint written and not yet named.
        eagerly: bool. Tracing takes longer than a short life.
        behind: int. Seconds that its clock is behind.
        in_background: bool. Whether a thread writes its checkpoints, as where accelerators train.

    Returns:
        int, the id of the process.
    """
    child = os.fork()
    if child:
        return child
    status = 2
    try:
        tf.config.run_functions_eagerly(eagerly)
        if behind:
            now = time.time
            time.time = lambda: now() - behind
        checkpoints.is_on_accelerator = lambda _: in_background
        if dies_unnamed:
            checkpoint_management.update_checkpoint_state_internal = lambda *_, **__: os.kill(
                os.getpid(), signal.SIGKILL
            )
        with open(output, "a") as file:
            try:
                replicas = None
                if cluster:
                    task = {"type": "worker", "index": worker}
                    config = json.dumps({"cluster": {"worker": cluster}, "task": task})
                    say = functools.partial(print, file=file)
                    replicas = open_replicas("multiworker", {"TF_CONFIG": config}, say)
                console = Console(file=file, width=300)
                pretrain(load_recipe(*recipe), workdir, console, replicas=replicas)
                status = 0
            except Terminated as stopped:  # as tools/pretrain.py does
                status = stopped.exit_status
            except UserError as error:
                file.write(f"error: {error}\n")
                status = 1
            except BaseException:
                file.write(traceback.format_exc())
    finally:
        os._exit(status)


def wait_for(child):
    """The exit status of a life; negative where a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def has_ended(child):
    """Whether a life has ended; its status is left for `wait_for`."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def num_steps(workdir):
    """The updates that a run has logged."""
    path = os.path.join(workdir, "metrics.jsonl")
    if not os.path.exists(path):
        return 0
    with open(path) as file:
        return sum(1 for _ in file)


def wait_for_steps(workdir, steps, *lives):
    """Waits until so many updates are logged, or one of the lives has ended."""
    while num_steps(workdir) < steps and not any(map(has_ended, lives)):
        time.sleep(0.005)


def free_addresses(count):
    """Addresses of this machine that nobody listens at."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    return addresses


def report(**result):
    json.dump(result, sys.stdout)
