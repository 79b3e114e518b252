"""Learned relative position bias over a grid of patches with a leading class token."""

import keras
import numpy as np
from keras import ops


def relative_position_index(height, width):
    """Row of the bias table for every pair of tokens (BEiT, arXiv 2106.08254, appendix).

    The table holds `(2 * height - 1) * (2 * width - 1)` rows for patch to patch, then one row each
    for class token to patch, patch to class token, and class token to itself.

    Args:
        height: int. Patches per column of the grid.
        width: int. Patches per row of the grid.

    Returns:
        int32 array `[T, T]` with `T = 1 + height * width`; entry `[query, key]`.
    """
    rows, columns = np.divmod(np.arange(height * width), width)
    row_offset = rows[:, None] - rows[None, :] + height - 1
    column_offset = columns[:, None] - columns[None, :] + width - 1
    num_offsets = (2 * height - 1) * (2 * width - 1)
    index = np.empty((1 + height * width, 1 + height * width), dtype="int32")
    index[1:, 1:] = row_offset * (2 * width - 1) + column_offset
    index[0, :] = num_offsets
    index[:, 0] = num_offsets + 1
    index[0, 0] = num_offsets + 2
    return index


class RelativePositionBias(keras.layers.Layer):
    """Adds to each attention logit a learned number that depends on where key and query lie.

    Args:
        grid: (int, int). Patches per column and per row.
        num_heads: int. Attention heads; each has its own table.

    Call: logits `[B, num_heads, T, T]` with `T = 1 + grid[0] * grid[1]` -> the same shape.
    """

    def __init__(self, grid, num_heads, **kwargs):
        super().__init__(**kwargs)
        self.grid = tuple(grid)
        self.num_heads = num_heads
        self.index = relative_position_index(*self.grid)

    def build(self, input_shape=None):
        self.table = self.add_weight(
            name="table",
            shape=((2 * self.grid[0] - 1) * (2 * self.grid[1] - 1) + 3, self.num_heads),
            initializer="zeros",
            autocast=False,  # the logits that it is added to are float32
        )

    def bias(self):
        """Returns the table laid out as logits: float32 `[num_heads, T, T]`."""
        bias = ops.take(self.table, self.index.reshape(-1), axis=0)  # [T * T, heads]
        bias = ops.transpose(bias)  # heads first: the layout of the logits
        return ops.reshape(bias, (self.num_heads, *self.index.shape))

    def call(self, logits):
        return logits + self.bias()

    def get_config(self):
        return {**super().get_config(), "grid": self.grid, "num_heads": self.num_heads}
