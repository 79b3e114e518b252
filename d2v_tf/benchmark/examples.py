"""Files of the usual size to measure with, where a recipe's own data is not at hand."""

import os
import pydoc_data.topics

import numpy as np
import soundfile
import tensorflow as tf

from d2v_tf.data.audio_files import SAMPLE_RATE

IMAGES = 64
IMAGE_SHAPE = (375, 500)  # ImageNet's usual size
UTTERANCES = 64
REPETITIONS = 4


def write_examples(recipe, folder):
    """Writes files that a recipe can be measured on.

    Noise in JPEGs of a photograph's size and in utterances as long as the longest crop; Python's
    manual as text. Nothing is to be learned from them.

    Args:
        recipe: a `Recipe`.
        folder: str. An empty one.

    Returns:
        str, the SOURCE that reads them.
    """
    return _WRITERS[recipe.modality](recipe, folder)


def _write_images(recipe, folder):
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        # Coarse and fine noise: a file of the size and the decoding time of a photograph's.
        coarse = rng.uniform(0, 255, (12, 16, 3))
        image = tf.image.resize(coarse, IMAGE_SHAPE, "bicubic") + rng.normal(
            0, 8, (*IMAGE_SHAPE, 3)
        )
        encoded = tf.io.encode_jpeg(tf.cast(tf.clip_by_value(image, 0, 255), tf.uint8), quality=90)
        tf.io.write_file(os.path.join(folder, f"{i:03}.jpg"), encoded)
    return f"folder:{folder}"


def _write_utterances(recipe, folder):
    rng = np.random.default_rng(0)
    samples = round(recipe.data.max_seconds * SAMPLE_RATE)
    for i in range(UTTERANCES):
        wave = 0.1 * rng.standard_normal(samples)
        soundfile.write(os.path.join(folder, f"{i:03}.flac"), wave, SAMPLE_RATE)
    return f"folder:{folder}"


def _write_text(recipe, folder):
    text = "\n\n".join(text for _, text in sorted(pydoc_data.topics.topics.items()))
    for i in range(REPETITIONS):
        with open(os.path.join(folder, f"{i}.txt"), "w", encoding="utf-8") as file:
            file.write(text)
    return f"text:{folder}/*.txt"


_WRITERS = {"vision": _write_images, "speech": _write_utterances, "text": _write_text}
