"""RandAugment: each operation against Pillow, and how often each is drawn."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from d2v_tf.data.rand_augment import RandAugment, _operations
from tests.data.images import picture

LEVEL = 0.9  # timm's m9
OPERATIONS = _operations(LEVEL)


def apply(name, image, sign=1.0):
    result = OPERATIONS[name](tf.constant(image[None], tf.float32), tf.constant(sign))
    assert result.shape == (1, *image.shape)
    return result[0].numpy()


@pytest.mark.parametrize(
    ("name", "sign", "expected", "tolerance"),
    [
        ("invert", 1, ImageOps.invert, 0),
        ("solarize", 1, lambda x: ImageOps.solarize(x, 256 - 230), 0),
        ("posterize", 1, lambda x: ImageOps.posterize(x, 1), 0),
        ("auto_contrast", 1, ImageOps.autocontrast, 1.01),
        ("color", 1, lambda x: ImageEnhance.Color(x).enhance(1.81), 2),
        ("color", -1, lambda x: ImageEnhance.Color(x).enhance(0.19), 2),
        ("brightness", 1, lambda x: ImageEnhance.Brightness(x).enhance(1.81), 1.01),
        ("brightness", -1, lambda x: ImageEnhance.Brightness(x).enhance(0.19), 1.01),
    ],
)
def test_colors_are_pillows(name, sign, expected, tolerance):
    image = picture(3) // 2 + 50
    got = apply(name, image, float(sign))
    difference = np.abs(got - np.asarray(expected(Image.fromarray(image)), "float32"))
    assert difference.max() <= tolerance
    assert np.abs(got - image).max() > 20  # it does something


def test_equalized_values_are_the_textbooks():
    dark = (picture(3) // 4).astype("uint8")
    got = apply("equalize", dark)
    for channel in range(3):
        values = dark[..., channel]
        below = np.array([(values <= v).sum() for v in range(256)])  # distribution function
        lowest = below[values.min()]
        table = np.round((below - lowest) / (values.size - lowest) * 255)
        np.testing.assert_array_equal(got[..., channel], table[values])
    # Pillow's table has its steps shifted by half of the largest bin.
    expected = np.asarray(ImageOps.equalize(Image.fromarray(dark)), "float32")
    assert np.abs(got - expected).max() <= 20


def test_contrast_is_about_the_mean_of_each_channel():
    image = picture(3).astype("float64") / 4 + 96
    mean = image.mean(axis=(0, 1))
    for sign in (-1.0, 1.0):
        expected = mean + (1 + 0.81 * sign) * (image - mean)
        np.testing.assert_allclose(apply("contrast", image, sign), expected, atol=1e-2)


def test_sharpness_is_pillows_and_has_no_border():
    image = np.asarray(Image.fromarray(picture(3, 12, 12)).resize((40, 40)))
    image = np.clip(image + np.random.default_rng(0).normal(0, 20, image.shape), 0, 255)
    image = image.astype("uint8")
    for sign, factor in ((1.0, 1.81), (-1.0, 0.19)):
        got = apply("sharpness", image, sign)
        expected = np.asarray(ImageEnhance.Sharpness(Image.fromarray(image)).enhance(factor))
        assert np.abs(got - expected)[1:-1, 1:-1].max() <= 2
    flat = np.full((8, 8, 3), 200)
    np.testing.assert_allclose(apply("sharpness", flat, -1.0), flat, atol=1e-3)


def test_solarize_add_brightens_the_dark_half():
    image = picture(3)
    expected = np.where(image < 128, image.astype(int) + 99, image)
    np.testing.assert_allclose(apply("solarize_add", image), np.minimum(expected, 255))


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize(("name", "axis"), [("translate_x", 1), ("translate_y", 0)])
def test_translations_are_of_the_size(name, axis, sign):
    image = np.moveaxis(picture(3, 40, 20).astype("float64"), axis, 0)
    extent = len(image)
    places = np.arange(extent) - sign * 0.405 * extent  # where each row comes from
    inside = (places >= 0) & (places <= extent - 1)
    low = np.floor(places[inside]).astype(int)
    part = (places[inside] - low)[:, None, None]
    expected = (1 - part) * image[low] + part * image[low + 1]
    moved = np.moveaxis(apply(name, picture(3, 40, 20), sign), axis, 0)
    np.testing.assert_allclose(moved[inside], expected, atol=1e-2)
    np.testing.assert_allclose(moved[0 if sign > 0 else -1], 128.0)  # gray comes in


def test_shears_and_rotations_are_by_the_angle():
    image = picture(3, 40, 40)
    inside = np.s_[12:28, 12:28]
    for sign in (-1.0, 1.0):
        factor = sign * 0.27
        for name, matrix in (
            ("shear_x", (1, factor, 0, 0, 1, 0)),
            ("shear_y", (1, 0, 0, factor, 1, 0)),
        ):
            expected = Image.fromarray(image).transform(
                (40, 40), Image.AFFINE, matrix, Image.BILINEAR
            )
            difference = np.abs(apply(name, image, sign) - np.asarray(expected))[inside]
            assert difference.mean() < 3  # Pillow's pixels have their centers at halves
        turned = np.asarray(Image.fromarray(image).rotate(sign * 27, Image.BILINEAR))
        assert np.abs(apply("rotate", image, sign) - turned)[inside].max() < 2


def test_operations_are_drawn_evenly_for_each_image():
    augment = RandAugment(num_ops=1)
    number = len(augment._operations)
    assert number == 15
    augment._operations = [lambda images, sign, k=k: images + (k + 1) * sign for k in range(number)]
    count = 6000
    seeds = tf.stack([tf.zeros(count, tf.int64), tf.range(count, dtype=tf.int64)], axis=1)

    @tf.function
    def draw_all():
        zeros = tf.zeros([1, 1, 3])
        return tf.map_fn(
            lambda seed: augment(zeros, seed)[0, 0, 0], seeds, fn_output_signature=tf.float32
        )

    drawn = draw_all().numpy().astype(int)
    assert abs((drawn == 0).mean() - 0.5) < 4 * 0.5 / np.sqrt(count)
    for k in range(1, number + 1):
        for value in (k, -k):
            expected = count / 2 / number / 2
            assert abs((drawn == value).sum() - expected) < 4.5 * np.sqrt(expected), value


def test_it_stays_in_range_and_is_of_image_and_seed_alone():
    augment = tf.function(RandAugment(num_ops=3, magnitude=10))
    results = []
    for seed in range(30):
        image = tf.constant(picture(seed, 16, 16), tf.float32)
        key = tf.constant([0, seed], tf.int64)
        results.append(augment(image, key).numpy())
        assert results[-1].shape == (16, 16, 3)
        assert results[-1].min() >= -0.01 and results[-1].max() <= 255.01
        np.testing.assert_array_equal(results[-1], augment(image, key))
    changed = [np.abs(r - picture(i, 16, 16)).max() > 2 for i, r in enumerate(results)]
    assert 20 <= sum(changed) < 30  # 7/8 expected; a drawn operation may change little


def test_magnitude_nothing_changes_no_geometry_nor_strength():
    image = tf.constant(picture(3)[None], tf.float32)
    for name, operation in _operations(0.0).items():
        if name in ("auto_contrast", "equalize", "invert"):
            continue
        got = operation(image, tf.constant(1.0)).numpy()
        atol = 16 if name == "posterize" else 1e-3  # four bits are left
        np.testing.assert_allclose(got, image, atol=atol, err_msg=name)
