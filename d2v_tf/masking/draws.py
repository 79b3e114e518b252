"""Random numbers for masks, an example's own."""

import tensorflow as tf


def draw_uniforms(seeds, shape):
    """Uniform numbers `[B, *shape]`, each example's from its own seed `[2]` alone."""
    # The traced function is shared by batches of all sizes and forgets this one's.
    return tf.ensure_shape(_draw_each(seeds, shape), (seeds.shape[0], *shape))


@tf.function(reduce_retracing=True)
def _draw_each(seeds, shape):
    # One small call an example keeps a mask independent of the batch that it is drawn in.
    return tf.map_fn(
        lambda seed: tf.random.stateless_uniform(shape, seed),
        seeds,
        fn_output_signature=tf.TensorSpec(shape, tf.float32),
    )
