"""Seeds of what is drawn for an example: a function of the run's seed and the position alone."""

import tensorflow as tf


def stream_seed(seed, position, stream):
    """The seed of one kind of draw; each kind has a stream of its own.

    Args:
        seed: int. The recipe's.
        position: integer scalar or `[B]`. Of the example in the run.
        stream: int. Different for each kind, and more than 2^40 apart.

    Returns:
        int64 `[2]` or `[B, 2]`: (seed, position + stream).
    """
    position = tf.cast(position, tf.int64)
    return tf.stack(
        [tf.fill(tf.shape(position), tf.constant(seed, tf.int64)), position + stream], axis=-1
    )
