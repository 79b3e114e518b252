"""Masks of fine-tuning: how many, how long, where not, and that they are drawn anew."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from d2v_tf.finetuning.feature_masks import ChannelMask, TimeMask, random_spans


def runs_of(row):
    """Lengths of the runs of `True`."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
    return edges[1::2] - edges[::2]


def draw(lengths, size, ratio, span_length, min_spans=1):
    seed = keras.random.SeedGenerator(0)
    return np.asarray(random_spans(seed, np.array(lengths), size, ratio, span_length, min_spans))


def test_spans_have_their_length_their_number_and_stay_off_padding():
    lengths = np.array([200, 100, 60] * 200)
    mask = draw(lengths, 200, 0.2, 10)
    assert not (mask & (np.arange(200) >= lengths[:, None])).any()
    assert all((runs_of(row) >= 10).all() for row in mask)
    # Spans overlap: with s spans of 10 among n - 10 starts, a frame inside is covered with
    # probability 1 - C(n - 20, s) / C(n - 10, s).
    for n in (200, 100):
        spans = round(0.2 * n / 10)
        missed = np.prod([(n - 20 - i) / (n - 10 - i) for i in range(spans)])
        share = mask[lengths == n][:, 9 : n - 10].mean()
        assert share == pytest.approx(1 - missed, abs=0.015)


def test_a_fraction_of_a_span_is_drawn_as_often_as_it_says():
    mask = draw([100] * 2000, 100, 0.03, 10, min_spans=0)  # 0.3 spans a row
    assert mask.any(axis=1).mean() == pytest.approx(0.3, abs=0.03)
    assert draw([100] * 50, 100, 0.03, 10, min_spans=1).any(axis=1).all()


@pytest.mark.parametrize("length", [0, 1, 3])
def test_rows_shorter_than_a_span(length):
    mask = draw([length] * 20, 8, 0.65, 10)
    assert not mask[:, length:].any()


def test_equals_the_pretraining_masks_in_distribution():
    from d2v_tf.masking import span_mask

    seeds = tf.stack([tf.zeros(400, tf.int64), tf.range(400, dtype=tf.int64)], axis=1)
    theirs = span_mask(150, seeds, start_ratio=0.065, equal_counts=False).numpy()
    ours = draw([150] * 400, 150, 0.65, 10)
    assert ours.mean() == pytest.approx(theirs.mean(), abs=0.015)
    np.testing.assert_allclose(ours.mean(axis=0), theirs.mean(axis=0), atol=0.13)


def test_layers_act_in_training_only_and_anew_at_each_call():
    x = np.ones((4, 60, 32), "float32")
    padding = np.arange(60) < np.array([[60], [60], [40], [30]])
    time, channels = TimeMask(0.5, 5), ChannelMask(0.5, 8)
    assert not np.asarray(time(x, padding, training=False)).any()
    np.testing.assert_array_equal(channels(x, training=False), x)
    first, second = (np.asarray(time(x, padding, training=True)) for _ in range(2))
    assert first.any(axis=1).all() and (first != second).any()
    assert not (first & ~padding).any()
    masked = np.asarray(channels(x, training=True))
    assert ((masked == 0) == (masked[:, :1] == 0)).all()  # whole channels
    assert 0 < (masked == 0).mean() < 0.7
    assert len({tuple(row[0] == 0) for row in masked}) > 1  # each example its own


def test_dynamic_shapes_under_xla():
    time = TimeMask(0.5, 5)

    @tf.function(jit_compile=True, input_signature=[tf.TensorSpec([None, None, 8])])
    def mask(x):
        return time(x, training=True)

    assert mask(tf.ones((2, 40, 8))).shape == (2, 40)
    assert np.asarray(mask(tf.ones((3, 50, 8)))).any(axis=1).all()
