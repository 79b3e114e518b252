"""RandAugment (arXiv 1909.13719) of one image at a time, with the pixel work of Keras' layers."""

import functools

import keras
import tensorflow as tf

from d2v_tf.data.keras_layers import pipeline_layer

# An operation that is drawn is applied to half of the images, as in timm, whose
# `rand-m9-mstd0.5-inc1` is what BEiT and data2vec are fine-tuned with.
APPLIED_PART = 0.5
# Magnitudes go from 0 to 10.
MAX_MAGNITUDE = 10
# What comes in from outside the image.
GRAY = 128.0


class RandAugment:
    """Applies operations that are drawn for each image from timm's fifteen.

    Called with an image float32 `[H, W, 3]` in [0, 255] and a seed int64 `[2]`; gives the same
    shape and range, a function of these alone.

    `keras.layers.RandAugment` is not used: it draws the operations once for a whole batch and
    ignores the seed that it is given, turns images by up to `factor` of a full circle in one
    direction only, and computes all eleven operations each time (13 images/s of 224 pixels on one
    core, where this makes 350, Keras 3.15, 2026-11). The single layers are right where they are
    told what to do, and do the work here.

    Each magnitude is fixed and its sign is drawn; timm's adds a little noise to the magnitude.

    Args:
        num_ops: int. Operations an image, one after the other.
        magnitude: float in [0, 10].
    """

    def __init__(self, num_ops=2, magnitude=9.0):
        self.num_ops, self.magnitude = num_ops, magnitude
        self._operations = list(_operations(magnitude / MAX_MAGNITUDE).values())

    def __call__(self, image, seed):
        number = len(self._operations)
        draws = tf.random.stateless_uniform([self.num_ops, 3], seed)

        def step(images, draw):
            drawn = tf.minimum(tf.cast(draw[0] * number, tf.int32), number - 1)
            sign = tf.where(draw[1] < 0.5, -1.0, 1.0)
            branches = [functools.partial(apply, images, sign) for apply in self._operations]
            index = tf.where(draw[2] < APPLIED_PART, drawn, number)
            return tf.ensure_shape(tf.switch_case(index, [*branches, lambda: images]), images.shape)

        return tf.foldl(step, draws, initializer=image[None])[0]


def _operations(level):
    """The fifteen, by name: functions of (images `[1, H, W, 3]`, sign) at a level in [0, 1].

    Levels are timm's "increasing" ones, where a higher magnitude always changes more.
    """
    geometry = {"fill_mode": "constant", "fill_value": GRAY}
    shear = pipeline_layer(keras.layers.RandomShear, **geometry)
    translate = pipeline_layer(keras.layers.RandomTranslation, 0.0, 0.0, **geometry)
    turns = 30 / 360 * level
    rotate = [
        pipeline_layer(keras.layers.RandomRotation, (turn, turn), **geometry)
        for turn in (-turns, turns)
    ]
    solarize = pipeline_layer(keras.layers.Solarization)
    posterize = pipeline_layer(keras.layers.RandomPosterization, 8)
    color = pipeline_layer(keras.layers.RandomColorDegeneration, 1.0)
    contrast = pipeline_layer(keras.layers.RandomContrast, 1.0)
    sharpness = pipeline_layer(keras.layers.RandomSharpness, 1.0)
    # Both take their statistics over the whole batch, which is one image here.
    auto_contrast = pipeline_layer(keras.layers.AutoContrast)
    equalize = pipeline_layer(keras.layers.Equalization)

    def rotated(images, sign):
        def by(layer):  # its angle is fixed, whatever the seed
            return layer.transform_images(images, layer.get_random_transformation(images, seed=0))

        return tf.cond(sign < 0, lambda: by(rotate[0]), lambda: by(rotate[1]))

    def sheared(images, sign, x=0.0, y=0.0):
        factors = sign * 0.3 * level * tf.constant([[x, y]])
        return shear.transform_images(images, {"shear_factor": factors})

    def translated(images, sign, x=0.0, y=0.0):
        size = tf.cast(tf.stack([tf.shape(images)[2], tf.shape(images)[1]]), tf.float32)
        offsets = sign * 0.45 * level * size * tf.constant([[x, y]])
        return translate.transform_images(images, {"translations": offsets})

    def strength(sign):
        return 1 + sign * 0.9 * level

    def sharpened(images, sign):
        # The layer smooths with zeros around the image; its own border is put there instead.
        padded = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]], "SYMMETRIC")
        return sharpness.transform_images(padded, {"factor": strength(sign)[None] / 2})[
            :, 1:-1, 1:-1
        ]

    def solarized(images, threshold):
        return solarize.transform_images(images, {"additions": 0.0, "thresholds": threshold})

    shift = 8 - max(1, 4 - int(4 * level))  # bits that are lost
    return {
        "auto_contrast": lambda images, _: auto_contrast.transform_images(images),
        "equalize": lambda images, _: equalize.transform_images(images, None),
        "invert": lambda images, _: solarized(images, 0.0),
        "rotate": rotated,
        "posterize": lambda images, _: posterize.transform_images(
            images, {"shift_factor": tf.constant([shift], tf.uint8)}
        ),
        "solarize": lambda images, _: solarized(images, 256.0 - int(256 * level)),
        # Of the dark half only; the layer's own additions brighten all, then invert.
        "solarize_add": lambda images, _: tf.where(
            images < 128, tf.minimum(images + min(128, int(110 * level)), 255.0), images
        ),
        "color": lambda images, sign: color.transform_images(
            images, {"factor": 1 - strength(sign)}
        ),
        "contrast": lambda images, sign: contrast.transform_images(
            images, {"contrast_factor": strength(sign)}
        ),
        # RandomBrightness adds the same to all pixels: at this strength, black or white is left.
        "brightness": lambda images, sign: tf.clip_by_value(images * strength(sign), 0.0, 255.0),
        "sharpness": sharpened,
        "shear_x": functools.partial(sheared, x=1.0),
        "shear_y": functools.partial(sheared, y=1.0),
        "translate_x": functools.partial(translated, x=1.0),
        "translate_y": functools.partial(translated, y=1.0),
    }
