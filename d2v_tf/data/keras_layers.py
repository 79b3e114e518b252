"""Keras' preprocessing layers in a tf.data pipeline that is a function of (seed, position)."""

import keras
import tensorflow as tf


def pipeline_layer(kind, *args, **options):
    """A layer whose methods may be called in a pipeline, whatever Keras' backend and precision.

    Made outside of the pipeline's functions: a layer that draws has a variable, if an unused one.
    """
    layer = kind(*args, **options, dtype="float32", data_format="channels_last")
    layer.backend.set_backend("tensorflow")
    return layer


class StatelessSeeds(keras.random.SeedGenerator):
    """Seeds for the draws of a layer, from a tensor instead of a state.

    A layer's `get_random_transformation` takes an int, which would be the same for all examples,
    or a `SeedGenerator`, which counts in a variable: then what an example becomes depends on how
    many were before it. This one counts the draws for one example, while the graph is made.

    Args:
        seed: int64 `[2]`, from `stream_seed`.
    """

    def __init__(self, seed):  # and no variable, which the parent's would make
        self._seed, self._count = seed, 0

    def next(self, ordered=True):
        """The seed of the next draw, int64 `[2]`."""
        self._count += 1
        # Drawn and not added: Keras reduces seeds modulo 2^31 - 2, where all streams are close.
        count = tf.constant(self._count, tf.int64)
        return tf.random.experimental.stateless_fold_in(self._seed, count)
