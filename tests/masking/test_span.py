"""Span masks: fairseq's statistics, equal counts, no padding."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_array_equal
from scipy import ndimage

from d2v_tf.masking import channel_mask, max_masked_frames, span_mask
from tests.masking.seeds import make_seeds


def fairseq_masks(rng, lengths, width, start_ratio, span_length, min_masks=1, same=True):
    """fairseq's `compute_mask_indices` with padding, an example and a span at a time in NumPy.

    It stops with an error where no frame is left visible; here one is, drawn at random.
    """
    frames = []
    for length in lengths:
        number = max(min_masks, int(start_ratio * length + rng.random()))
        candidates = length - span_length
        if candidates <= number:
            candidates = number + 1
        starts = rng.choice(candidates, number, replace=False)
        masked = sorted({s + i for s in starts for i in range(span_length) if s + i < length})
        frames.append(rng.permutation(masked)[: length - 1])
    target = min(map(len, frames)) if same else None
    masks = np.zeros((len(lengths), width), bool)
    for mask, masked in zip(masks, frames, strict=True):
        mask[rng.choice(masked, len(masked) if target is None else target, replace=False)] = True
    return masks


def assert_equal_means(got, wanted, errors=4.5):
    """Means over draws, the first axis, within so many standard errors of their difference."""
    got, wanted = got.astype("float64"), wanted.astype("float64")
    allowed = errors * np.sqrt(got.var(axis=0) / len(got) + wanted.var(axis=0) / len(wanted))
    assert (np.abs(got.mean(axis=0) - wanted.mean(axis=0)) <= allowed).all()


@pytest.mark.parametrize(
    ("lengths", "arguments"),
    [
        ([60, 60, 60], {}),
        ([60, 41, 52], {}),
        ([60, 60, 60], {"start_ratio": 0.1, "span_length": 4}),
        ([60, 15, 12], {"start_ratio": 0.3, "span_length": 10}),  # fewer places than spans need
    ],
)
def test_spans_are_distributed_as_fairseqs(lengths, arguments):
    """Where frames are masked, how many, in how many runs: with and without equal counts."""
    number = 1_500
    ratio = arguments.get("start_ratio", 0.065)
    length = arguments.get("span_length", 10)
    rng = np.random.default_rng(0)
    seeds = tf.constant(make_seeds(3 * number).reshape(number, 3, 2))
    for same in (True, False):
        draw = tf.function(functools.partial(span_mask, equal_counts=same, **arguments))
        masks = np.stack([draw(60, seeds[i], lengths) for i in range(number)])
        expected = np.stack(
            [fairseq_masks(rng, lengths, 60, ratio, length, same=same) for _ in range(number)]
        )
        assert_equal_means(masks, expected)
        counts, expected_counts = masks.sum(axis=2), expected.sum(axis=2)
        assert_equal_means(counts, expected_counts)
        assert_equal_means(counts**2, expected_counts**2)
        borders, expected_borders = np.diff(masks, axis=2), np.diff(expected, axis=2)
        assert_equal_means(borders.sum(axis=2), expected_borders.sum(axis=2))


def test_every_example_keeps_the_same_number_of_frames_and_no_padding_is_masked():
    lengths = np.random.default_rng(0).integers(50, 200, size=(30, 8))
    counts = []
    for seed, row in enumerate(lengths):
        masks = span_mask(200, make_seeds(8, seed), row).numpy()
        spans = span_mask(200, make_seeds(8, seed), row, equal_counts=False).numpy()
        assert masks.dtype == bool and masks.shape == (8, 200)
        padding = np.arange(200) >= row[:, None]
        assert not (masks & padding).any() and not (spans & padding).any()
        # What is unmasked is a part of the spans, down to the smallest example's count.
        assert not (masks & ~spans).any()
        assert_array_equal(masks.sum(axis=1), spans.sum(axis=1).min())
        counts.append(spans.sum(axis=1))
        # Spans are whole: no run of masked frames is shorter than one.
        for span in spans:
            assert np.bincount(ndimage.label(span)[0])[1:].min() >= 10
    assert len(np.unique(counts)) > 20


def test_about_half_of_a_long_waveform_is_masked_and_starts_are_uniform():
    """1 - (1 - 0.065) ** 10 is 0.489; 0.065 * 2,000 frames are 130 starts."""
    masks = span_mask(2_000, make_seeds(400), equal_counts=False).numpy()
    assert abs(masks.mean() - 0.49) < 0.005
    # Spans of one frame are the starts themselves, among all but the last frame.
    starts = span_mask(200, make_seeds(4_000), span_length=1, equal_counts=False).numpy()
    assert_array_equal(starts.sum(axis=1), 13)
    assert not starts[:, 199].any()
    frequency, expected = starts[:, :199].mean(axis=0), 13 / 199
    error = np.sqrt(expected * (1 - expected) / 4_000)
    assert np.abs(frequency - expected).max() < 4.5 * error
    assert 0.7 * error < frequency.std() < 1.3 * error  # nor more even than chance
    # 0.065 * 210 is 13.65: the fraction is rounded at random.
    counts = (
        span_mask(210, make_seeds(4_000), span_length=1, equal_counts=False).numpy().sum(axis=1)
    )
    assert set(counts) == {13, 14}
    assert abs(counts.mean() - 13.65) < 4.5 * np.sqrt(0.65 * 0.35 / 4_000)


def test_the_surplus_is_unmasked_at_random():
    """Not from one end: each masked frame of the longer example is as likely to stay."""
    seeds = tf.constant(make_seeds(2 * 1_000).reshape(1_000, 2, 2))
    draw, draw_spans = (
        tf.function(lambda s, equal=equal: span_mask(100, s, [40, 100], 0.1, equal_counts=equal))
        for equal in (True, False)
    )
    middle = slice(10, 90)  # where every frame is masked often enough to tell
    masks = np.stack([draw(s)[1] for s in seeds])[:, middle]
    spans = np.stack([draw_spans(s)[1] for s in seeds])[:, middle]
    rate = masks.sum() / spans.sum()
    assert 0.3 < rate < 0.6
    error = np.sqrt(rate * (1 - rate) / spans.sum(axis=0))
    assert (np.abs(masks.sum(axis=0) / spans.sum(axis=0) - rate) < 4.5 * error).all()


def test_short_examples_keep_a_frame_visible_and_do_not_unmask_the_others():
    lengths = np.arange(15)
    masks = span_mask(40, make_seeds(15), lengths, equal_counts=False).numpy()
    assert_array_equal(masks[:2].sum(axis=1), 0)
    counts = masks.sum(axis=1)[2:]
    assert (counts >= 1).all() and (counts < lengths[2:]).all()
    masks = span_mask(40, make_seeds(3), [40, 0, 1], equal_counts=True).numpy()
    assert masks[0].sum() >= 10
    assert not masks[1:].any()
    # Also where spans would cover every frame.
    masks = span_mask(12, make_seeds(200), start_ratio=0.9, equal_counts=False).numpy()
    assert masks.sum(axis=1).max() == 11


def test_min_spans_is_the_fewest():
    seeds = make_seeds(200)
    counts = span_mask(60, seeds, start_ratio=0.001, equal_counts=False).numpy().sum(axis=1)
    assert_array_equal(counts, 10)
    starts = span_mask(60, seeds, start_ratio=0.001, span_length=1, min_spans=3).numpy()
    assert_array_equal(starts.sum(axis=1), 3)
    assert not span_mask(60, seeds[:1], start_ratio=1e-6, min_spans=0).numpy().any()


@pytest.mark.parametrize(
    "arguments",
    [{}, {"start_ratio": 0.3}, {"span_length": 3}, {"min_spans": 9}, {"start_ratio": 0.9}],
)
@pytest.mark.parametrize("num_frames", [30, 99])
def test_no_mask_has_more_frames_than_the_bound(num_frames, arguments):
    bound = max_masked_frames(num_frames, **arguments)
    masks = span_mask(num_frames, make_seeds(2_000), equal_counts=False, **arguments).numpy()
    assert 0.6 * bound < masks.sum(axis=1).max() <= bound < num_frames


def test_a_seed_determines_its_spans():
    seeds = make_seeds(50)
    masks = span_mask(99, seeds, equal_counts=False).numpy()
    assert_array_equal(span_mask(99, seeds, equal_counts=False), masks)
    assert len({mask.tobytes() for mask in masks}) == 50
    for part in (0, 1):  # both numbers of the seed count
        changed = seeds[0].copy()
        changed[part] += 1
        assert (span_mask(99, changed).numpy() != masks[0]).any()
    # Not the batch, nor the length of the padding, changes them.
    assert_array_equal(span_mask(99, seeds[7:9], equal_counts=False), masks[7:9])
    assert_array_equal(span_mask(99, seeds[3]), masks[3])
    longer = span_mask(140, seeds, 99, equal_counts=False).numpy()
    assert_array_equal(longer[:, :99], masks)
    assert not longer[:, 99:].any()


def test_spans_are_the_same_in_tf_data_and_their_shape_is_static():
    seeds, lengths = make_seeds(12), np.array([40, 30, 25, 40] * 3, "int32")
    expected = [span_mask(40, seeds[i : i + 4], lengths[i : i + 4]) for i in (0, 4, 8)]
    for number in (3, 5, 7):
        span_mask(40, seeds[:number])
    data = tf.data.Dataset.from_tensor_slices((seeds, lengths)).batch(4, drop_remainder=True)
    masks = data.map(lambda s, n: span_mask(40, s, n), num_parallel_calls=4)
    assert masks.element_spec == tf.TensorSpec((4, 40), tf.bool)
    assert_array_equal(list(masks.as_numpy_iterator()), expected)
    one_by_one = tf.data.Dataset.from_tensor_slices(seeds).map(lambda s: span_mask(40, s))
    assert one_by_one.element_spec == tf.TensorSpec((40,), tf.bool)


def test_spans_compile_under_xla():
    """It draws other numbers, of the same kind."""
    draw = tf.function(lambda s: span_mask(99, s, [99] * 500), jit_compile=True)
    masks = draw(make_seeds(500)).numpy()
    assert (masks.sum(axis=1) == masks[0].sum()).all()
    draw = tf.function(lambda s: span_mask(99, s, equal_counts=False), jit_compile=True)
    expected = span_mask(99, make_seeds(2_000), equal_counts=False).numpy()
    assert_equal_means(draw(make_seeds(2_000)).numpy(), expected)


@pytest.mark.parametrize(("ratio", "span_length"), [(0.25, 64), (0.5, 64), (0.3, 10)])
def test_channels_are_masked_as_fairseqs(ratio, span_length):
    masks = channel_mask(256, make_seeds(6_000), ratio, span_length).numpy()
    assert masks.shape == (6_000, 256)
    rng = np.random.default_rng(0)
    arguments = (ratio / span_length, span_length, 0, False)
    expected = np.concatenate([fairseq_masks(rng, [256] * 4, 256, *arguments) for _ in range(500)])
    assert_equal_means(masks, expected)
    assert_equal_means(masks.sum(axis=1), expected.sum(axis=1))
    single = channel_mask(256, make_seeds(1)[0], ratio, span_length)
    assert_array_equal(single, masks[0])


def test_few_channels_may_stay_unmasked():
    """0.25 * 100 / 64 spans are none or one."""
    counts = channel_mask(100, make_seeds(2_000)).numpy().sum(axis=1)
    assert set(counts) == {0, 64}
    assert abs((counts > 0).mean() - 0.390625) < 4.5 * np.sqrt(0.39 * 0.61 / 2_000)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (span_mask, {"start_ratio": 6.5}, "start_ratio must be between 0 and 1. Received: 6.5"),
        (span_mask, {"start_ratio": 0}, "start_ratio must be between 0 and 1. Received: 0"),
        (span_mask, {"span_length": 0}, "span_length must be at least 1. Received: 0"),
        (channel_mask, {"ratio": 1.5}, "ratio must be between 0 and 1. Received: 1.5"),
        (channel_mask, {"span_length": -1}, "span_length must be at least 1. Received: -1"),
    ],
)
def test_span_errors_name_the_argument_and_the_value(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(99, make_seeds(2), **arguments)
