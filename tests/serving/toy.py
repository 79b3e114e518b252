"""A SavedModel of a few operations, to ask whatever can be asked."""

import tensorflow as tf


class Toy(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def half_plus_three(self, x):
        return {"y": x / 2 + 3}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, "tag"),
            tf.TensorSpec([None, 2], tf.float32, "signal"),
            tf.TensorSpec([None], tf.int32, "count"),
        ]
    )
    def several(self, tag, signal, count):
        with tf.control_dependencies([tf.debugging.assert_positive(count, "count too small")]):
            total = tf.reduce_sum(signal, axis=1) * tf.cast(count, tf.float32)
        return {"total": total, "tag": tag, "tag_bytes": tag, "many": count > 1}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def mean(self, x):
        return {"mean": tf.reduce_mean(x), "x": x}


def write_toy(folder):
    """Writes a version of it into `folder`."""
    toy = Toy()
    signatures = {
        "serving_default": toy.half_plus_three,
        "several": toy.several,
        "mean": toy.mean,
    }
    tf.saved_model.save(toy, str(folder), signatures=signatures)
