"""Reading that falls over to another example where a file cannot be read, and keeps the count."""

import tensorflow as tf

from d2v_tf.errors import UserError

# Candidates for one position of the input: its own example and seven drawn to replace it.
NUM_CANDIDATES = 8


class DataError(UserError):
    """Data that cannot be used; the message names it and says what to do."""


class BadFiles:
    """Counts the examples of a source that could not be read.

    Args:
        name: str. The source, as the user named it.
        num_examples: int. Examples in the source.
        max_bad: float. The part of the examples that may be bad.
        warn: callable(str), called once for each bad example.

    Attributes:
        count: int. Distinct bad examples so far.
        error: a `DataError` once there are too many, else `None`. TensorFlow wraps an error
            raised inside the input pipeline in one of its own; this is the original.
    """

    def __init__(self, name, num_examples, max_bad=0.01, warn=print):
        self.name, self.num_examples = name, num_examples
        self.max_bad, self.warn = max_bad, warn
        self.error = None
        self._reasons = {}

    @property
    def count(self):
        return len(self._reasons)

    def report(self, name, reason):
        """Notes that `name` could not be read.

        Raises:
            DataError: where that makes too many.
        """
        if name in self._reasons:
            return
        self._reasons[name] = reason
        self.warn(f"{name} is skipped: {reason}")
        if self.count > self.max_bad * self.num_examples:
            first, why = next(iter(self._reasons.items()))
            self.error = DataError(
                f"data: {self.count} of {self.num_examples} examples of {self.name} could not be "
                f'decoded (first: {first}, "{why}"); at most {100 * self.max_bad:g}% may. Remove '
                "them, or --set data.max_bad=0.1."
            )
            raise self.error


def replacement_indices(index, position, seed, num_examples):
    """The candidates for a position: its own example, then others drawn from (seed, position).

    Args:
        index: int64 scalar. The position's own example.
        position: int64 scalar. Counts examples over the whole run.
        seed: int.
        num_examples: int.

    Returns:
        int64 `[NUM_CANDIDATES]`.
    """
    drawn = tf.random.stateless_uniform(
        [NUM_CANDIDATES - 1],
        seed=tf.stack([tf.constant(seed, tf.int64) + 0x5EED, position]),
        maxval=num_examples,
        dtype=tf.int64,
    )
    return tf.concat([index[None], drawn], axis=0)


def read_first_good(candidates, read):
    """A dataset of one element: what `read` makes of the first candidate that it can read.

    TensorFlow's graphs have no try and except; `ignore_errors` on a dataset of the candidates is
    one. A later candidate is read only where all before it failed.

    Args:
        candidates: a dataset.
        read: function of an element of it to a dict of tensors.

    Returns:
        A dataset of one dict, with `"failed"` added: int64, how many candidates failed before. It
        is empty where all failed.
    """
    tried = candidates.enumerate().map(
        lambda failed, candidate: {**read(candidate), "failed": failed}
    )
    return tried.ignore_errors().take(1)
