"""Reading that falls over to another example where one cannot be read, and keeps the count."""

import contextlib
import contextvars
import re
import threading
import time
import zlib

import tensorflow as tf

from d2v_tf.data.no_autograph import no_autograph
from d2v_tf.errors import UserError

# Examples that one call reads: enough to make the call's own cost small.
CHUNK = 32
# File systems have bad moments: seconds before an example is read again, and once more. Then
# another one takes its place.
PAUSES = (1.0, 5.0)
ATTEMPTS = len(PAUSES) + 1
_has_python = contextvars.ContextVar("has_python", default=True)


@contextlib.contextmanager
def without_python():
    """Datasets that are made inside call no Python but to report what cannot be read.

    A data service has none. Its attempts follow each other at once.
    """
    token = _has_python.set(False)
    try:
        yield
    finally:
        _has_python.reset(token)


class DataError(UserError):
    """Data that cannot be used; the message names it and says what to do."""


class TooManyBadError(DataError):
    """More bad examples than may be.

    Args:
        what: str. The message without advice: how the limit is raised, not every tool has alike.
        enough: float. A limit that would have let them pass.
    """

    def __init__(self, what, enough):
        super().__init__(what, enough)  # what it is made of again, in another process
        self.what, self.enough = what, enough

    def __str__(self):
        return f"{self.what} Remove them, or raise the limit: --set data.max_bad={self.enough:g}."


class BadExamples:
    """Counts the examples of a source that could not be read.

    Args:
        name: str. The source, as the user named it.
        num_examples: int. Examples in the source.
        max_bad: float. The part of the examples that may be bad.
        warn: callable(str), called once for each bad example.

    Attributes:
        error: a `DataError` once there are too many, else `None`. TensorFlow wraps an error
            raised inside the input pipeline in one of its own; this is the original.
    """

    def __init__(self, name, num_examples, max_bad=0.01, warn=print):
        self.name, self.num_examples = name, num_examples
        self.max_bad, self.warn = max_bad, warn
        self.error = None
        self._reasons = {}
        self._lock = threading.Lock()

    @property
    def count(self):
        """int. Distinct bad examples so far."""
        return len(self._reasons)

    def knows(self, name):
        """Whether an example was reported."""
        return name in self._reasons

    def report(self, name, reason):
        """Notes that an example could not be read.

        Raises:
            DataError: where that makes too many.
        """
        with self._lock:  # several threads read, and may meet the same example
            if name not in self._reasons:
                self._reasons[name] = reason
                self.warn(f"{name} is skipped: {reason}")
        # Also where another thread was the first to report it: none may go on.
        if self.count > self.max_bad * self.num_examples:
            self._give_up()

    def report_no_replacement(self, name):
        """Notes that neither an example nor any drawn to replace it could be read.

        Raises:
            DataError: always.
        """
        self._reasons.setdefault(name, "it and its replacements cannot be read")
        self._give_up()

    def _give_up(self):
        first, reason = next(iter(self._reasons.items()))
        self.error = TooManyBadError(
            f"data: {self.count} of {self.num_examples} examples of {self.name} could not be read "
            f'(first: {first}, "{reason}"); at most {100 * self.max_bad:g}% may.',
            enough=min(1.0, (int(10 * max(self.max_bad, self.count / self.num_examples)) + 1) / 10),
        )
        raise self.error


@no_autograph
def read_examples(records, load, transform, bad_examples, batch_size, drop_remainder=False):
    """Reads one example for each record, in the order of the records.

    TensorFlow's graphs have no try and except; `ignore_errors` on a dataset is one, and the
    positions missing from its result tell which records failed. Those, and only those, are read
    again, after a pause where the file system failed, and then with their next candidate. So good
    data costs nothing more, and position and example stay tied however many files are bad.

    Args:
        records: dataset of `{"position": int64, "candidates": [C]}`; positions ascend.
        load: function of one candidate to a dict with `"name"`; runs in the graph.
        transform: function of (that dict, position) to a dict of tensors of fixed shapes.
        bad_examples: `BadExamples`; told of every candidate that failed.
        batch_size: int.
        drop_remainder: bool. Whether a last, smaller batch is left out.

    Returns:
        A dataset of batches of what `transform` gives, with `"position"`. Where C is 1, a record
        that fails is left out; where it is more and all fail, a `DataError` is raised.
    """

    def read_good(positions, candidates):
        """Rows of those that can be read."""

        def read(position, candidate):
            return {**transform(load(candidate), position), "position": position}

        rows = tf.data.Dataset.from_tensor_slices((positions, candidates)).map(read)
        spec = rows.element_spec
        # A row of zeros at the end, removed again: so there is always one to batch.
        zeros = {name: tf.zeros(s.shape, s.dtype) for name, s in spec.items()}
        rows = rows.ignore_errors().concatenate(tf.data.Dataset.from_tensors(zeros))
        rows = rows.batch(CHUNK + 1).get_single_element()
        return {
            name: tf.ensure_shape(rows[name][:-1], [None, *s.shape]) for name, s in spec.items()
        }

    def report(candidates, replaceable):
        for candidate in candidates:
            name, reason = _explain(candidate, load, transform)
            bad_examples.report(name, reason)
        if not replaceable:
            bad_examples.report_no_replacement(name)
        return True

    def pause(candidates, attempt):
        if any(_may_pass(candidate, load) for candidate in candidates):
            time.sleep(PAUSES[int(attempt)])
        return True

    pauses = _has_python.get()

    def read_chunk(chunk):
        positions, candidates = chunk["position"], chunk["candidates"]
        num_candidates = candidates.shape[1]

        def try_next(turn, positions, candidates, rows):
            number, attempt = turn // ATTEMPTS, turn % ATTEMPTS
            good = read_good(positions, candidates[:, number])
            failed = ~tf.reduce_any(positions[:, None] == good["position"], axis=1)
            positions = tf.boolean_mask(positions, failed)
            candidates = tf.boolean_mask(candidates, failed)
            replaceable = (number + 1 < num_candidates) | (num_candidates == 1)
            tf.cond(
                tf.reduce_any(failed) & (attempt == ATTEMPTS - 1),
                lambda: tf.py_function(report, [candidates[:, number], replaceable], tf.bool),
                lambda: True,
            )
            if pauses:
                tf.cond(
                    tf.reduce_any(failed) & (attempt < ATTEMPTS - 1),
                    lambda: tf.py_function(pause, [candidates[:, number], attempt], tf.bool),
                    lambda: True,
                )
            rows = {name: tf.concat([rows[name], good[name]], 0) for name in good} if rows else good
            return turn + 1, positions, candidates, rows

        first = try_next(0, positions, candidates, None)
        _, _, _, rows = tf.while_loop(
            lambda turn, positions, *_: (
                (turn < ATTEMPTS * num_candidates) & (tf.size(positions) > 0)
            ),
            try_next,
            first,
            maximum_iterations=ATTEMPTS * num_candidates,
        )
        order = tf.argsort(rows["position"])
        return {name: tf.gather(row, order) for name, row in rows.items()}

    chunks = records.batch(CHUNK).map(read_chunk, num_parallel_calls=tf.data.AUTOTUNE)
    return chunks.rebatch(batch_size, drop_remainder=drop_remainder)


def _may_pass(candidate, load):
    """Whether the file system fails, and not the file: it is there, and its bytes do not come."""
    if candidate.dtype == tf.string:  # a record's bytes have come
        return False
    try:
        load(candidate)
    except (tf.errors.NotFoundError, FileNotFoundError):
        return False
    except (tf.errors.OpError, OSError, ValueError):
        return True
    return False


def _unread_name(candidate, load):
    """What a candidate is called before anything of it could be read."""
    if candidate.dtype == tf.string:
        return f"record {candidate.numpy()!r}"[:80]
    names = getattr(getattr(load, "__self__", None), "names", ())
    number = int(candidate)
    return str(names[number]) if number < len(names) else f"example {number}"


def _explain(candidate, load, transform):
    """The name of a candidate that failed, and why, found by reading it once more."""
    name = _unread_name(candidate, load)
    try:
        example = load(candidate)
        name = example["name"].numpy().decode("utf-8", "replace")
        if candidate.dtype == tf.string:  # records often have no name: tell them apart
            name += f" (CRC32 {zlib.crc32(candidate.numpy()):08x})"
        transform(example, tf.constant(0, tf.int64))
    except (tf.errors.OpError, OSError, ValueError) as error:
        return name, first_line(error)
    return name, f"it could not be read {ATTEMPTS} times, but could after that"


def first_line(error):
    """What a TensorFlow error says, without the names of graph nodes around it."""
    text = re.sub(r"\{\{.*?\}\}\s*", "", getattr(error, "message", str(error)))
    return text.strip().split("\n")[0].split(" [Op:")[0]
