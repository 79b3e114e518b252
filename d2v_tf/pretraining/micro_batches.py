"""A batch in parts, one after the other, where memory is too small for all of it."""

import tensorflow as tf
from keras import ops


def sum_over_micro_batches(function, batch, parts, zeros):
    """Adds up what a function gives for each part of a batch; one at a time is in memory.

    Args:
        function: of a batch of B / parts examples, to a structure of tensors.
        batch: a structure of tensors `[B, ...]`.
        parts: int.
        zeros: what `function` gives, in zeros.

    Raises:
        ValueError: where B is known and `parts` does not divide it.
    """
    micro_batches = tf.nest.map_structure(lambda x: _split(x, parts), batch)

    def add_micro_batch(i, running):
        new = function(tf.nest.map_structure(lambda x: x[i], micro_batches))
        return i + 1, tf.nest.map_structure(tf.add, running, new)

    _, result = tf.while_loop(
        lambda i, _: i < parts, add_micro_batch, (tf.constant(0), zeros), parallel_iterations=1
    )
    return result


def _split(x, parts):
    shape = ops.shape(x)
    if isinstance(shape[0], int) and shape[0] % parts:
        raise ValueError(
            f"accumulate must divide the batch. Received: accumulate={parts}, a batch of {shape[0]}"
        )
    return tf.reshape(x, (parts, shape[0] // parts, *shape[1:]))
