"""What workers that train together have to agree on, and what is said where one of them is lost."""

import contextlib
import re
import zlib

import tensorflow as tf

from d2v_tf.config import dump_recipe
from d2v_tf.data.input_errors import reason_and_node
from d2v_tf.errors import UserError
from d2v_tf.training.workdir import WorkdirError

# How TensorFlow says that a worker does not answer: nothing that this one did. Files and data
# services are said to be unavailable, too.
LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)
OF_WORKERS = re.compile(
    r"collective|coordinat|/job:|/task:\d|peer|socket closed|heartbeat|barrier|connect", re.I
)


class WorkerLost(UserError):
    """Another worker of the run is gone; this one cannot go on without it."""


@contextlib.contextmanager
def lost_workers_named(replicas):
    """Turns what TensorFlow raises where another worker does not answer into a `WorkerLost`."""
    try:
        yield
    except LOST as error:
        reason, node = reason_and_node(error)
        # Where a worker is lost, what is said last is only how to go on.
        aborted = re.search(r"Collective ops is aborted.*", error.message)
        reason = aborted.group() if aborted else reason
        if replicas.num_workers == 1 or not OF_WORKERS.search(f"{node} {reason}"):
            raise
        raise WorkerLost(
            f"Worker {replicas.worker} stops, for another one of the {replicas.num_workers} does "
            f"not answer ({reason}). What that one printed says why. Start all of them "
            "anew, and the run goes on from its newest checkpoint."
        ) from None


def check_agreement(replicas, workdir, start, recipe, data):
    """Refuses workers of which some go on otherwise than the chief: one run has one of each."""
    same = zlib.crc32(f"{dump_recipe(recipe)}{data.num_examples}".encode())
    if len(set(replicas.gather(same))) > 1:
        raise WorkdirError(
            f"worker {replicas.worker} has precision {recipe.precision}, xla {recipe.xla} and "
            f"{data.num_examples:,} examples of {recipe.data.source}; another worker differs in "
            "one of them or in another key. Set precision and xla where the machines differ, and "
            "give all the same data."
        )
    starts = replicas.gather(start)
    if len(set(starts)) > 1:
        raise WorkdirError(
            f"--workdir={workdir} is not one folder: its newest readable checkpoint is of updates "
            f"{', '.join(map(str, starts))} for workers 0 to {len(starts) - 1}. Give one that all "
            "workers see, on a shared file system."
        )
