"""Position tables of a vision backbone, resized for images of another size."""

import keras
import numpy as np
from scipy.interpolate import RectBivariateSpline
from scipy.optimize import brentq

from d2v_tf.backbones.relative_position import RelativePositionBias
from d2v_tf.backbones.vision import Data2VecVisionBackbone

# PyTorch's bicubic kernel; TensorFlow's has -0.5.
CUBIC = -0.75
# The least and the most by which distances may grow from one row of a table to the next.
GROWTH = (1.01, 1.5)


def resize_backbone(backbone, image_shape):
    """The same backbone for images of another size, its position tables resized.

    Args:
        backbone: a `Data2VecVisionBackbone`.
        image_shape: (int, int) or (int, int, int). Height, width and channels, which stay.

    Returns:
        A new backbone, or the same one where the size is its own.

    Raises:
        ValueError: for another number of channels, a backbone of another modality, or a size that
            patches do not divide.
    """
    if not isinstance(backbone, Data2VecVisionBackbone):
        raise ValueError(
            f"image_shape is for a Data2VecVisionBackbone. Received: {type(backbone).__name__}"
        )
    image_shape = tuple(image_shape)
    if len(image_shape) == 2:
        image_shape += backbone.image_shape[2:]
    if image_shape == backbone.image_shape:
        return backbone
    if image_shape[2:] != backbone.image_shape[2:]:
        raise ValueError(
            f"image_shape must be (height, width, channels) with as many channels as in "
            f"{backbone.image_shape}. Received: {image_shape}"
        )
    resized = Data2VecVisionBackbone.from_config(
        {**backbone.get_config(), "image_shape": image_shape}
    )
    resizers = {id(layer.table): resize_relative_table for layer in _relative_biases(backbone)}
    if backbone.absolute_position:
        resizers[id(backbone.positions.position_embedding)] = resize_position_embedding
    for source, target in zip(backbone.weights, resized.weights, strict=True):
        if id(source) in resizers:
            table = keras.ops.convert_to_numpy(source)
            target.assign(resizers[id(source)](table, backbone.grid, resized.grid))
        else:
            target.assign(source)
    return resized


def resize_relative_table(table, source, target):
    """A table of relative position biases for another grid, as BEiT resizes it.

    Near patches keep their distances and far ones are spread: the rows of the old table are taken
    to stand at distances 0, 1, 1 + q, 1 + q + q^2, ... with such a q that the last is the new
    grid's largest, and a bicubic spline through them is read at whole distances. (BEiT's code,
    `run_class_finetuning.py`; arXiv 2106.08254 fine-tunes at other resolutions so.) Between 1.01
    and 1.5, q is limited as there: a smaller grid reads the middle of the table.

    Args:
        table: float array `[(2 * height - 1) * (2 * width - 1) + 3, num_heads]`.
        source, target: (int, int). Patches per column and per row, before and after.

    Returns:
        float32 array of the same layout.
    """
    size = tuple(2 * side - 1 for side in source)
    new_size = tuple(2 * side - 1 for side in target)
    known = [_distances(old // 2, new // 2) for old, new in zip(size, new_size, strict=True)]
    wanted = [np.arange(new) - new // 2 for new in new_size]
    heads = [
        _spline(*known, grid, *wanted).reshape(-1)
        for grid in table[:-3].astype("float64").T.reshape(-1, *size)
    ]
    # The last three rows are between patches and the class token: there is no distance in them.
    return np.concatenate([np.stack(heads, axis=1), table[-3:]]).astype("float32")


def resize_position_embedding(table, source, target):
    """Learned absolute positions for another grid: the class token's as it is, the others bicubic.

    Args:
        table: float array `[1, 1 + height * width, D]`.
        source, target: (int, int). Patches per column and per row, before and after.

    Returns:
        float32 array `[1, 1 + new height * new width, D]`.
    """
    dim = table.shape[-1]
    grid = table[0, 1:].reshape(*source, dim)
    rows, columns = (_bicubic_weights(*pair) for pair in zip(source, target, strict=True))
    grid = np.einsum("yh,xw,hwd->yxd", rows, columns, grid, optimize=True)
    return np.concatenate([table[:, :1], grid.reshape(1, -1, dim)], axis=1).astype("float32")


def _relative_biases(backbone):
    layers = [backbone.encoder.shared_bias]
    layers += [block.relative_position_bias for block in backbone.encoder.blocks]
    return [layer for layer in layers if isinstance(layer, RelativePositionBias)]


def _distances(old, new):
    """Where the `2 * old + 1` rows of a table stand, in patches of the new grid."""
    if old == new:
        return np.arange(-old, old + 1.0)

    def excess(growth):
        return np.sum(growth ** np.arange(old)) - new

    if excess(GROWTH[0]) >= 0:
        growth = GROWTH[0]
    elif excess(GROWTH[1]) <= 0:
        growth = GROWTH[1]
    else:
        growth = brentq(excess, *GROWTH, xtol=1e-9)
    far = np.cumsum(growth ** np.arange(old))
    return np.concatenate([-far[::-1], [0.0], far])


def _spline(rows, columns, grid, new_rows, new_columns):
    """A bicubic spline through a grid, read at other points; outside, the edge is repeated."""
    if len(rows) == 1:  # one patch: every distance is 0
        rows, grid = np.array([-1.0, 1.0]), np.repeat(grid, 2, axis=0)
    if len(columns) == 1:
        columns, grid = np.array([-1.0, 1.0]), np.repeat(grid, 2, axis=1)
    spline = RectBivariateSpline(
        rows,
        columns,
        grid,
        kx=min(3, len(rows) - 1),  # two patches give three points, through which a parabola goes
        ky=min(3, len(columns) - 1),
    )
    return spline(
        np.clip(new_rows, rows[0], rows[-1]), np.clip(new_columns, columns[0], columns[-1])
    )


def _bicubic_weights(old, new):
    """Weights `[new, old]` of bicubic interpolation whose pixels are areas, edges repeated."""
    centers = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(centers).astype(int) - 1
    weights = np.zeros((new, old))
    for tap in range(4):
        distance = np.abs(centers - (first + tap))
        near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
        far = CUBIC * (((distance - 5) * distance + 8) * distance - 4)
        at = np.clip(first + tap, 0, old - 1)
        np.add.at(weights, (np.arange(new), at), np.where(distance <= 1, near, far))
    return weights
