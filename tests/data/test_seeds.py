"""Seeds of draws: (the run's seed, the position in a stream of its own)."""

import numpy as np
import tensorflow as tf

from d2v_tf.data.seeds import stream_seed


def test_a_seed_is_of_run_position_and_stream():
    assert stream_seed(7, tf.constant(3), 1 << 40).numpy().tolist() == [7, 3 + 2**40]
    seeds = stream_seed(2**31 + 5, tf.constant([0, 9], tf.int64), 2 << 40)
    assert seeds.dtype == tf.int64
    np.testing.assert_array_equal(seeds, [[2**31 + 5, 2**41], [2**31 + 5, 9 + 2**41]])


def test_the_static_shape_is_that_of_the_positions():
    spec = tf.TensorSpec([4], tf.int64)
    graph = tf.function(lambda p: stream_seed(0, p, 0)).get_concrete_function(spec)
    assert graph.output_shapes == [4, 2]
