import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

from d2v_tf.pretraining.targets import (
    average_targets,
    deviation,
    moment_sums,
    normalize,
    regression_loss,
    sequence_deviation_sums,
)
from tests import numpy_reference


def random_blocks(number=3, shape=(2, 7, 5), seed=0):
    """Blocks of very different size, so that normalising each or only their mean differ."""
    rng = np.random.default_rng(seed)
    return [rng.normal(3.0 * i, 0.2 * 10.0**i, shape).astype("float32") for i in range(number)]


@pytest.mark.parametrize("normalize_average", [False, True])
@pytest.mark.parametrize("norm", ["layer", "instance", "batch", None])
def test_average_equals_numpy(norm, normalize_average):
    blocks = random_blocks()
    got = average_targets(blocks, norm, normalize_average)
    expected = numpy_reference.average_targets(blocks, norm, normalize_average)
    assert keras.backend.standardize_dtype(got.dtype) == "float32"
    assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_padding_stays_out_of_the_statistics(norm):
    (features,) = random_blocks(1, (2, 50, 8))
    padding_mask = np.arange(50) < np.array([[50], [30]])
    expected = numpy_reference.average_targets([features], norm, True, padding_mask)
    features[1, 30:] = 1e4  # poison
    got = average_targets([features], norm, True, padding_mask)
    assert_allclose(np.asarray(got)[padding_mask], expected[padding_mask], atol=1e-4)


def test_instance_norm_is_over_time_and_ignores_padding():
    rng = np.random.default_rng(0)
    features = rng.normal(3.0, 5.0, size=(2, 50, 8)).astype("float32")
    features[1, 30:] = 1e4  # poison
    padding_mask = np.arange(50) < np.array([[50], [30]])
    got = np.asarray(average_targets([features], "instance", padding_mask=padding_mask))
    for row, length in enumerate([50, 30]):
        real = features[row, :length].astype("float64")
        expected = (real - real.mean(axis=0)) / np.sqrt(real.var(axis=0) + 1e-5)
        assert_allclose(got[row, :length], expected, atol=1e-4)


def test_an_example_of_padding_only_gives_finite_targets():
    (features,) = random_blocks(1)
    padding_mask = np.array([[True] * 7, [False] * 7])
    assert np.isfinite(average_targets([features], "instance", padding_mask=padding_mask)).all()


def test_layer_norm_does_not_depend_on_padding_or_neighbours():
    (features,) = random_blocks(1)
    alone = average_targets([features[:1, :1]], "layer")
    assert_allclose(average_targets([features], "layer")[:1, :1], alone, atol=1e-5)


def test_a_loud_block_counts_no_more_than_a_quiet_one():
    quiet, loud = random_blocks(2)
    got = average_targets([quiet, loud], "layer")
    assert_allclose(average_targets([quiet, 1000 * loud], "layer"), got, atol=1e-3)


def test_targets_of_half_precision_are_computed_in_float32():
    blocks = [tf.cast(100 + x, "bfloat16") for x in random_blocks()]
    expected = numpy_reference.average_targets(
        [tf.cast(x, "float64").numpy() for x in blocks], "layer", True
    )
    got = average_targets(blocks, "layer", True)
    assert got.dtype == tf.float32
    assert_allclose(got, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("norm", ["layer", "instance", "batch", None])
def test_no_gradient_flows_out_of_targets(norm):
    features = tf.Variable(random_blocks(1)[0])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(average_targets([features], norm, True) ** 2)
    assert tape.gradient(loss, features) is None


@pytest.mark.parametrize("beta", [0.0, 0.25, 2.0])
def test_loss_equals_its_definition_on_both_sides_of_beta(beta):
    rng = np.random.default_rng(0)
    predictions, targets = rng.normal(0, 2, (2, 4, 6, 5)).astype("float32")
    errors = np.abs(predictions - targets)
    assert (errors < 2.0).any() and (errors > 2.0).any()
    definition = np.vectorize(lambda e: numpy_reference.smooth_l1(e, beta))
    expected = definition(predictions - targets.astype("float64")).sum(axis=-1)
    got = regression_loss(predictions, targets, beta)
    assert got.shape == (4, 6)
    assert_allclose(got, expected / np.sqrt(5), rtol=1e-5)
    assert_allclose(regression_loss(predictions, targets, beta, scale=1.0), expected, rtol=1e-5)


def test_a_scale_of_zero_is_a_scale():
    assert regression_loss(np.ones((1, 4)), np.zeros((1, 4)), scale=0.0) == 0


def test_smooth_l1_and_its_slope_are_continuous_at_beta():
    error = tf.constant([[1.999], [2.001]])
    with tf.GradientTape() as tape:
        tape.watch(error)
        loss = regression_loss(error, tf.zeros_like(error), beta=2.0)
    assert_allclose(loss, [1.0, 1.0], atol=2e-3)
    assert_allclose(tape.gradient(loss, error), [[1.0], [1.0]], atol=2e-3)


def test_deviation_is_the_unbiased_one_over_the_union_of_batches():
    rng = np.random.default_rng(0)
    batches = rng.normal(2.0, [0.5, 3.0, 1.0, 0.01], (3, 5, 6, 4)).astype("float32")
    weights = rng.random((3, 5, 6)) < 0.4
    sums = sum(moment_sums(x, w.astype("float32")) for x, w in zip(batches, weights, strict=True))
    counted = batches[weights].astype("float64")  # [positions, D]
    expected = np.mean(np.sqrt(np.std(counted, axis=0, ddof=1) ** 2 + 1e-6))
    assert_allclose(deviation(sums), expected, rtol=1e-4)


def test_deviation_of_a_constant_or_of_nothing_is_small_and_finite():
    constant = moment_sums(np.full((2, 3, 4), 7.0, "float32"), np.ones((2, 3), "float32"))
    assert 0 <= float(deviation(constant)) < 0.01
    nothing = moment_sums(np.ones((2, 3, 4), "float32"), np.zeros((2, 3), "float32"))
    assert 0 <= float(deviation(nothing)) < 0.01


@pytest.mark.parametrize("padded", [False, True])
def test_the_frontends_deviation_equals_numpy(padded):
    rng = np.random.default_rng(0)
    features = rng.normal(3.0, rng.uniform(0, 2, size=(4, 1, 5)), size=(4, 9, 5))
    padding_mask, expected = None, [row.std(axis=0).mean() for row in features]
    if padded:
        frames = [9, 5, 1, 0]  # one frame or none has no deviation, and does not count
        padding_mask = np.arange(9) < np.array(frames)[:, None]
        expected = [features[0].std(axis=0).mean(), features[1, :5].std(axis=0).mean()]
        features[~padding_mask] = 1e4
    total, count = sequence_deviation_sums(features.astype("float32"), padding_mask)
    assert count == len(expected)
    assert_allclose(total, np.sum(expected), rtol=1e-5)
    # The sums of parts add up, as over replicas.
    parts = [
        sequence_deviation_sums(
            features[rows], None if padding_mask is None else padding_mask[rows]
        )
        for rows in (slice(0, 1), slice(1, 4))
    ]
    assert_allclose(np.sum(parts, axis=0), [total, count], rtol=1e-5)
    constant = sequence_deviation_sums(tf.ones((2, 9, 5), tf.bfloat16))
    assert_array_equal(constant, [0.0, 2.0])
    assert constant.dtype == tf.float32


def test_errors_name_the_norm_and_the_empty_list():
    with pytest.raises(ValueError, match="target_norm must be one of .*'instance'.*'layr'"):
        normalize(np.zeros((1, 2, 3)), "layr")
    with pytest.raises(ValueError, match="at least one block"):
        average_targets([], "layer")
