"""Crops, resizing and color jitter, against their laws and formulas written out in NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from d2v_tf.data.reading import BadExamples
from d2v_tf.data.vision import _resize, evaluation_dataset, jitter_colors, random_window
from d2v_tf.data.vision_sources import open_images
from tests.data.images import encode, picture


def test_windows_are_uniform_in_area_and_log_uniform_in_ratio():
    height, width, number = 400, 600, 4000
    seeds = tf.stack([tf.zeros(number, tf.int64), tf.range(number, dtype=tf.int64)], axis=1)
    scale, ratio = (0.1, 0.3), (0.5, 1.5)  # these always fit
    draw = tf.function(lambda seed: random_window((height, width), seed, scale, ratio))
    windows = tf.function(lambda seeds: tf.map_fn(draw, seeds, tf.int32))(seeds).numpy()
    top, left, heights, widths = windows.T.astype(float)
    assert (top >= 0).all() and (top + heights <= height).all()
    assert (left >= 0).all() and (left + widths <= width).all()
    # Quantiles of the laws, within five standard errors and a pixel's rounding.
    deciles = np.linspace(0, 1, 11)
    areas = np.quantile(heights * widths / (height * width), deciles)
    assert np.abs((areas - scale[0]) / (scale[1] - scale[0]) - deciles).max() < 0.04
    ratios = np.log(np.quantile(widths / heights, deciles) / ratio[0])
    assert np.abs(ratios / np.log(ratio[1] / ratio[0]) - deciles).max() < 0.04
    places = np.quantile(top / (height - heights), deciles)
    assert np.abs(places - deciles).max() < 0.04


@pytest.mark.parametrize(
    ("size", "expected"),
    [((10, 300), [0, 143, 10, 13]), ((300, 10), [143, 0, 13, 10]), ((1, 1), [0, 0, 1, 1])],
)
def test_a_window_that_cannot_fit_is_the_center(size, expected):
    # Nine tenths of a long strip are no near-square: torchvision cuts the center, too.
    seed = tf.constant([0, 0], tf.int64)
    window = random_window(size, seed, scale=(0.9, 1.0), ratio=(0.75, 4 / 3)).numpy()
    np.testing.assert_allclose(window, expected, atol=1)
    assert window[0] + window[2] <= size[0] and window[1] + window[3] <= size[1]


@pytest.mark.parametrize("size", [(20, 24), (20, 90), (80, 96)])  # smaller, mixed, larger
def test_resizing_is_bilinear_and_filtered_where_it_shrinks(size):
    image = picture(1, 40, 48).astype("float32")
    planes = [Image.fromarray(image[..., c]) for c in range(3)]  # float32: PIL does not round
    expected = np.stack([p.resize(size[::-1], Image.BILINEAR) for p in planes], axis=-1)
    np.testing.assert_allclose(_resize(tf.constant(image), size), expected, atol=0.05)


def test_color_jitter_is_brightness_then_contrast_then_saturation():
    strength, number = 0.4, 200
    image = 64 + picture(1, 8, 8).astype("float64") / 4  # mid tones: nothing reaches a limit
    seeds = tf.stack([tf.zeros(number, tf.int64), tf.range(number, dtype=tf.int64)], axis=1)
    images = tf.repeat(tf.constant(image[None], tf.float32), number, axis=0)
    jittered = jitter_colors(images, seeds, strength).numpy().astype("float64")

    def gray(x):
        return (x @ [0.299, 0.587, 0.114])[..., None]

    factors = []
    for row in jittered:
        brightness = gray(row).mean() / gray(image).mean()  # the other two keep the mean
        bright = image * brightness
        contrast = (gray(row) - gray(row).mean()).std() / (gray(bright) - gray(bright).mean()).std()
        contrasted = gray(bright).mean() + contrast * (bright - gray(bright).mean())
        colors, before = row - gray(row), contrasted - gray(contrasted)
        saturation = (colors * before).sum() / (before**2).sum()
        np.testing.assert_allclose(row, gray(contrasted) + saturation * before, atol=1e-2)
        factors.append((brightness, contrast, saturation))
    factors = np.array(factors)
    assert factors.min() >= 1 - strength - 1e-3 and factors.max() <= 1 + strength + 1e-3
    error = 4 * 2 * strength / np.sqrt(12 * number)  # four standard errors of a uniform mean
    np.testing.assert_allclose(factors.mean(axis=0), 1.0, atol=error)
    assert np.abs(np.corrcoef(factors.T) - np.eye(3)).max() < 0.3  # drawn independently


def test_color_jitter_stays_in_range():
    images = tf.constant(np.stack([picture(i, 8, 8) for i in range(20)]), tf.float32)
    seeds = tf.stack([tf.zeros(20, tf.int64), tf.range(20, dtype=tf.int64)], axis=1)
    jittered = jitter_colors(images, seeds, 0.9).numpy()
    assert jittered.min() == 0.0 and jittered.max() == 255.0


def test_webp_is_read(tmp_path):
    (tmp_path / "a.webp").write_bytes(encode(picture(5), "WEBP", lossless=True))
    batches = evaluation_dataset(
        open_images(f"folder:{tmp_path}"),
        image_shape=(40, 48, 3),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        batch_size=1,
        bad_examples=BadExamples("webp", 1),
    )
    images, _ = next(iter(batches))
    np.testing.assert_allclose(images[0] * 255, picture(5), atol=0.01)
