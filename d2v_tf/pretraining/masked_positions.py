"""Which positions are masked, as many in every example: shapes that are known before a batch is."""

import tensorflow as tf


def masked_positions(mask, max_masked=None):
    """Finds masked positions, M of each example; where fewer are masked, the rest weigh nothing.

    Args:
        mask: bool `[B, T]`.
        max_masked: as `most_masked` has it.

    Returns:
        (function `[B, T, D]` -> `[B, M, D]` that picks them, weights float32 `[B, M]`, 0 or 1).
    """
    most = most_masked(mask, max_masked)
    present, positions = tf.math.top_k(tf.cast(mask, tf.int32), most)  # [B, M]
    return lambda x: tf.gather(x, positions, batch_dims=1), tf.cast(present, tf.float32)


def most_masked(mask, max_masked=None):
    """M, an int where T is known while tracing and a scalar tensor where it is not.

    Args:
        mask: bool `[B, T]`.
        max_masked: optional int, or function of T that gives one. T where it is `None`.
    """
    length = tf.shape(mask)[1] if mask.shape[1] is None else mask.shape[1]
    limit = max_masked(length) if callable(max_masked) else max_masked
    if limit is None:
        return length
    return min(limit, length) if isinstance(length, int) else tf.minimum(limit, length)
