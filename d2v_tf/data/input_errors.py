"""What an error of TensorFlow says about a run's input; its text is the only place to find it."""

import re

import tensorflow as tf
from tensorflow.python.lib.io.tf_record import tf_record_random_reader

from d2v_tf.data.reading import DataError, first_line
from d2v_tf.data.records import CHECKED_LENGTH, RecordSource, has_record_at

# How a failed read is classed, by what the file system says. What is no fault of a file is left
# out: arguments and insides of operations.
OF_READING = (
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
    tf.errors.FailedPreconditionError,
    tf.errors.UnavailableError,
    tf.errors.DeadlineExceededError,
    tf.errors.AbortedError,
    tf.errors.UnknownError,
)
# In a graph the reason stands above the node; where several fail, the first one's comes first.
IN_GRAPH = re.compile(r"^(?:\s*\(\d+\) [A-Z_]+:\s*)?(.*)\n\s*\[\[\{\{node ([^}]*)\}\}\]\]", re.M)
OF_INPUT = re.compile(r"\b(IteratorGetNext|MultiDeviceIteratorGetNextFromShard)")


def explain_input(error, sources):
    """The `DataError` behind an error of reading; `None` where it is of something else.

    Args:
        error: `tf.errors.OpError`.
        sources: what is read, of which those of records have files to look through.
    """
    reason, node = reason_and_node(error)
    if not OF_INPUT.search(node) or _is_of_python(error):
        return None
    if isinstance(error, tf.errors.DataLossError):
        place = re.search(r" record at (\d+)", reason)
        name = (place and find_corrupt(sources, int(place.group(1)))) or _names(sources)
        return DataError(
            f"data: {name} is corrupt: {reason}. Put a good copy in its place, and the same "
            "command goes on."
        )
    if isinstance(error, OF_READING):
        return DataError(
            f"data: {_names(sources)} cannot be read: {reason}. Where that is put right, the same "
            "command goes on."
        )
    return None


def find_corrupt(sources, position):
    """The file in which what begins at this byte is corrupt, or `None`.

    Args:
        sources: what is read.
        position: int. As TensorFlow tells it: of a record, or of what comes after its length.
    """
    files = [file for s in sources if isinstance(s, RecordSource) for file, _, _ in s.parts]
    for file in dict.fromkeys(files):
        for start in (position - CHECKED_LENGTH, position):
            # Reading is one look, finding out where records begin as many as there are.
            if _is_corrupt_at(file, start) and has_record_at(file, start):
                return file
    return None


def _is_corrupt_at(file, start):
    try:
        if start >= 0:
            tf_record_random_reader(file).read(start)
    except tf.errors.DataLossError:
        return True
    except (tf.errors.OpError, IndexError):  # it is gone, or ends before
        return False
    return False


def reason_and_node(error):
    """Why an operation failed, and what it is called: two str.

    Args:
        error: `tf.errors.OpError`, of a graph or of an operation alone.
    """
    found = IN_GRAPH.search(error.message)
    if found:
        return re.sub(r"\{\{.*?\}\}\s*", "", found.group(1)).strip(), found.group(2)
    operation = re.search(r"\[Op:(\w+)\]", error.message)
    return first_line(error), operation.group(1) if operation else ""


def _is_of_python(error):
    """Whether Python raised it, and not as an error of the file system: then it is a mistake."""
    return "Traceback (most recent call last)" in error.message and "[Errno " not in error.message


def _names(sources):
    return " or ".join(dict.fromkeys(source.name for source in sources))
