"""What is shown of images."""

import numpy as np
import tensorflow as tf

from d2v_tf.reporting.features import attention_of
from d2v_tf.reporting.figures import colored, enlarged, image, principal_colors
from d2v_tf.reporting.page import grid

NUM_EXAMPLES = 300
# What is hidden, in a gray that no page has.
HIDDEN = 128
# Pixels of a picture on the page.
SIDE = 104


def masks(batch, data):
    """Images as the teacher and as the student get them, as HTML."""
    whole, cut = images_of(batch["images"], data), masked_images(batch, data)
    rows = [
        ("the teacher sees", [_shown(pixels, "the whole") for pixels in whole]),
        ("the student sees", [_shown(pixels, "what is not hidden") for pixels in cut]),
    ]
    return grid(rows)


def features(seen, backbone, data):
    """Colors of features and attention over the image, as HTML."""
    shape, prefix = grid_of(data), backbone.num_prefix_tokens
    center = shape[0] // 2 * shape[1] + shape[1] // 2
    pictures = ([], [], [], [])
    colors = principal_colors(seen.hidden)
    for index, rgb in zip(seen.mapped, colors, strict=True):
        example = seen.inputs[index]
        attention = attention_of(backbone, example)[prefix:, prefix:]
        parts = (
            images_of(example[None], data)[0],
            rgb.reshape(*shape, 3),
            colored(attention[center].reshape(shape)),
            colored(attention.mean(axis=0).reshape(shape)),
        )
        for row, pixels in zip(pictures, parts, strict=True):
            row.append(_shown(pixels, seen.label(index) or "image"))
    names = (
        "image",
        "features, by their principal components",
        "attention of the patch below and right of the middle",
        "attention that each patch gets, of all",
    )
    return grid(list(zip(names, pictures, strict=True)))


def thumbnail(example, data):
    """One image, as HTML."""
    return _shown(images_of(example[None], data)[0], "image", 88)


def images_of(inputs, data):
    """A backbone's inputs as images again: float `[B, H, W, C]` -> uint8 `[B, H, W, 3]`."""
    group = data.recipe.data
    pixels = (np.asarray(inputs, "float32") * group.std + group.mean) * 255
    pixels = np.clip(np.round(pixels), 0, 255).astype("uint8")
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


def masked_images(batch, data):
    """Images without the patches that are hidden from the student: uint8 `[B, H, W, 3]`."""
    images = images_of(batch["images"], data).copy()
    patch = data.recipe.model.patch_size
    for pixels, mask in zip(images, np.asarray(batch["mask"]), strict=True):
        pixels[enlarged(mask.reshape(grid_of(data)), patch)] = HIDDEN
    return images


def grid_of(data):
    """(rows, columns) of patches."""
    height, width, _ = data.recipe.model.image_shape
    patch = data.recipe.model.patch_size
    return height // patch, width // patch


def summarize_masks(batch, data):
    """Writes images and what the student sees of them to TensorBoard, one above the other."""
    both = [images_of(batch["images"], data), masked_images(batch, data)]
    tf.summary.image("masks", np.concatenate(both, axis=1), max_outputs=len(both[0]))


def summarize_features(batch, targets, data):
    """Writes images beside the colors of their targets to TensorBoard."""
    images, shape = images_of(batch["images"], data), grid_of(data)
    factor = images.shape[1] // shape[0]
    colors = [enlarged(c.reshape(*shape, 3), factor) for c in principal_colors(list(targets))]
    tf.summary.image("features", np.concatenate([images, colors], axis=1), max_outputs=len(images))


def _shown(pixels, label, side=SIDE):
    return image(pixels, label, "pixels", side)
