"""Mixup and CutMix: the pixels', samples' and labels' weights, and how they are drawn."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from d2v_tf.data.keras_layers import StatelessSeeds
from d2v_tf.data.mixing import ImageMixer, WaveformMixer
from d2v_tf.data.seeds import stream_seed


def coded(number, height=12, width=20):
    """Images whose pixels all are the image's own number, and labels that are its unit vector."""
    images = np.zeros((number, height, width, 3), "float32")
    images += np.arange(number)[:, None, None, None]
    return tf.constant(images), tf.eye(number)


def seed_of(position):
    return stream_seed(0, tf.constant(position), 7 << 40)


def partners_of(labels):
    """The row's other label, or its own where it is mixed with itself; and its own weight."""
    labels = np.asarray(labels, "float64")
    own = np.diag(labels).copy()
    others = labels - np.diag(own)
    return np.where(others.any(axis=1), others.argmax(axis=1), np.arange(len(labels))), own


def test_mixup_weighs_pixels_and_labels_alike():
    images, labels = coded(64)
    mixed, soft = ImageMixer(mixup=0.8)(images, labels, seed_of(0))
    assert mixed.shape == images.shape and soft.shape == labels.shape
    np.testing.assert_allclose(np.sum(soft, axis=1), 1.0, rtol=1e-5)
    partner, own = partners_of(soft)
    assert sorted(partner) == list(range(64))  # a permutation
    expected = own * np.arange(64) + (1 - own) * partner
    alone = partner == np.arange(64)
    np.testing.assert_allclose(own[alone], 1.0, rtol=1e-6)
    for pixel in np.reshape(mixed, (64, -1)).T[::97]:
        np.testing.assert_allclose(pixel, expected, atol=1e-4)


def test_cutmix_weighs_labels_by_the_pixels_that_are_pasted():
    images, labels = coded(64)
    mixed, soft = (np.asarray(x) for x in ImageMixer(cutmix=1.0)(images, labels, seed_of(1)))
    partner, own = partners_of(soft)
    for i in range(64):
        kept = (mixed[i] == i).all(axis=-1)  # [H, W]
        pasted = (mixed[i] == partner[i]).all(axis=-1)
        assert (kept | pasted).all()
        if partner[i] == i:
            continue
        np.testing.assert_allclose(own[i], kept.mean(), atol=1e-6)
        rows, columns = np.flatnonzero(pasted.any(axis=1)), np.flatnonzero(pasted.any(axis=0))
        if len(rows):  # a full box
            assert pasted.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    assert len(np.unique(own)) > 20  # a box of its own for each image


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0])
def test_mixups_weights_are_of_the_beta_distribution(alpha):
    images, labels = coded(200, 1, 1)
    mix = tf.function(ImageMixer(mixup=alpha))
    weights = []
    for position in range(20):
        partner, own = partners_of(mix(images, labels, seed_of(200 * position))[1])
        weights += own[partner != np.arange(200)].tolist()
    assert stats.kstest(weights, stats.beta(alpha, alpha).cdf).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_cutmixs_weights_are_of_the_beta_distribution(alpha):
    images, labels = coded(100, 100, 100)
    mix = tf.function(ImageMixer(cutmix=alpha))
    weights = []
    for position in range(10):
        partner, own = partners_of(mix(images, labels, seed_of(100 * position))[1])
        weights += own[partner != np.arange(100)].tolist()
    # Boxes are of whole pixels, which changes a weight by up to a pixel a side.
    below = stats.beta(alpha, alpha).cdf
    error = 2 / np.sqrt(len(weights))
    for place in np.linspace(0, 1, 41):
        part = np.mean(np.array(weights) <= place)
        assert below(place - 0.025) - error < part < below(place + 0.025) + error


def test_half_of_the_batches_go_each_way():
    images, labels = coded(8, 4, 4)
    mix = tf.function(ImageMixer(mixup=0.8, cutmix=1.0))
    is_cut = []
    for position in range(400):
        mixed = mix(images, labels, seed_of(8 * position))[0].numpy()
        is_cut.append((mixed == np.round(mixed)).all())
    assert abs(np.mean(is_cut) - 0.5) < 4 * 0.5 / np.sqrt(400)


def test_a_batchs_mixture_is_of_its_seed_alone():
    images, labels = coded(16)
    mix = ImageMixer(mixup=0.8, cutmix=1.0)
    first = mix(images, labels, seed_of(5))
    mix(images, labels, seed_of(6))
    for one, other in zip(first, mix(images, labels, seed_of(5)), strict=True):
        np.testing.assert_array_equal(one, other)
    graph = tf.function(ImageMixer(mixup=0.8, cutmix=1.0))(images, labels, seed_of(5))
    np.testing.assert_allclose(graph[0], first[0], atol=1e-5)
    assert np.abs(mix(images, labels, seed_of(6))[1] - first[1]).max() > 0.1


def test_without_alphas_nothing_is_mixed():
    images, labels = coded(4)
    mixed = ImageMixer()(images, labels, seed_of(0))
    assert mixed[0] is images and mixed[1] is labels


def waves(number, samples=50):
    """Waveforms of different lengths, each with its own number as all of its samples."""
    lengths = np.arange(number) % (samples - 10) + 10
    real = np.arange(samples) < lengths[:, None]
    waveforms = np.where(real, np.arange(1, number + 1)[:, None], 0).astype("float32")
    return tf.constant(waveforms), tf.constant(lengths, tf.int32), tf.eye(number)


def test_waveforms_and_labels_are_weighed_alike():
    waveforms, lengths, labels = waves(32)
    mixed, new_lengths, soft = WaveformMixer(10.0)(waveforms, lengths, labels, seed_of(0))
    partner, own = partners_of(soft)
    expected = own[:, None] * waveforms + (1 - own[:, None]) * np.asarray(waveforms)[partner]
    np.testing.assert_allclose(mixed, expected, atol=1e-4)
    np.testing.assert_array_equal(new_lengths, np.maximum(lengths, np.asarray(lengths)[partner]))
    assert 0.3 < own[partner != np.arange(32)].mean() < 0.7


def test_tags_are_mixed_in_the_same_parts():
    waveforms, lengths, labels = waves(16)
    tags = tf.constant(np.random.default_rng(0).integers(0, 2, (16, 6)), tf.float32)
    seed = seed_of(3)
    both = WaveformMixer(1.0)(waveforms, lengths, tf.concat([labels, tags], axis=1), seed)[2]
    partner, own = partners_of(both[:, :16])
    expected = own[:, None] * tags + (1 - own[:, None]) * np.asarray(tags)[partner]
    np.testing.assert_allclose(both[:, 16:], expected, atol=1e-6)


def test_part_of_the_waveforms_is_mixed():
    waveforms, lengths, labels = waves(2000)
    mixed, new_lengths, soft = WaveformMixer(10.0, 0.3)(waveforms, lengths, labels, seed_of(0))
    is_mixed = np.diag(soft) < 1
    assert abs(is_mixed.mean() - 0.3) < 4 * np.sqrt(0.21 / 2000)
    np.testing.assert_array_equal(mixed[~is_mixed], waveforms[~is_mixed])
    np.testing.assert_array_equal(new_lengths[~is_mixed], lengths[~is_mixed])
    unmixed = WaveformMixer()(waveforms, lengths, labels, seed_of(0))
    assert unmixed[0] is waveforms and unmixed[2] is labels


def test_seeds_of_streams_far_apart_stay_apart_in_kerass_draws():
    # Keras takes seeds modulo 2^31 - 2, where 2^40 is 1024.
    def draw(position, stream):
        seeds = StatelessSeeds(stream_seed(0, tf.constant(position), stream << 40))
        return [int(part) % (2**31 - 2) for part in seeds.next()]

    assert draw(1024, 5) != draw(0, 6)
    seeds = StatelessSeeds(seed_of(0))
    first, second = seeds.next(), seeds.next()
    assert (first != second).numpy().any()
    np.testing.assert_array_equal(first, StatelessSeeds(seed_of(0)).next())
