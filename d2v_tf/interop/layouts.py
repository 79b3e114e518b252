"""How tensors of other formats lie, against the variable of ours that holds the same numbers."""

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Layout:
    """A pair of functions that undo each other. `sizes` is a dict of ints that shapes need.

    Attributes:
        to_ours: (sizes, their tensors...) -> our array.
        to_theirs: (sizes, our array) -> a tuple of their tensors. Only moves numbers about, so that
            it gives the shapes of their tensors from an array without content.
    """

    to_ours: Callable
    to_theirs: Callable


def _patches_to_theirs(sizes, kernel):
    patch, dim = sizes["patch_size"], kernel.shape[-1]
    kernel = kernel.reshape(patch, patch, -1, dim)  # [height, width, C, D]
    return (kernel.transpose(3, 2, 0, 1),)


def _positions_to_theirs(sizes, table):
    unused = np.zeros((sizes["padding_token_id"], table.shape[-1]), table.dtype)
    return (np.concatenate([unused, table]),)


def _positions_and_segments_to_theirs(sizes, table):
    segments = np.zeros((sizes["segments"], table.shape[-1]), table.dtype)
    return *_positions_to_theirs(sizes, table), segments


SAME = Layout(
    lambda sizes, tensor: tensor,
    lambda sizes, array: (array,),
)
# A matrix, [out, in] in PyTorch and [in, out] in Keras; or the kernel of a 1-D convolution,
# [out, in, kernel] and [kernel, in, out].
TRANSPOSED = Layout(
    lambda sizes, tensor: np.transpose(tensor),
    lambda sizes, array: (np.transpose(array),),
)
# A vector [D] that stands as [1, 1, D] there.
VECTOR = Layout(
    lambda sizes, tensor: tensor.reshape(-1),
    lambda sizes, array: (array.reshape(1, 1, -1),),
)
# A convolution over patches, [D, C, height, width]; a matrix [height * width * C, D] here.
PATCHES = Layout(
    lambda sizes, tensor: tensor.transpose(2, 3, 1, 0).reshape(-1, tensor.shape[0]),
    _patches_to_theirs,
)
# Query, key and value, three matrices [D, D] of [out, in]; one [D, 3 * D] here.
QUERY_KEY_VALUE = Layout(
    lambda sizes, *tensors: np.concatenate([tensor.T for tensor in tensors], axis=1),
    lambda sizes, array: tuple(part.T for part in np.split(array, 3, axis=1)),
)
# RoBERTa's positions start in row `padding_token_id`, which padding has; no token reaches the rows
# before it.
POSITIONS = Layout(
    lambda sizes, positions: positions[sizes["padding_token_id"] :],
    _positions_to_theirs,
)
# Segment 0 is added to every token, so that it belongs into the rows of the table.
POSITIONS_AND_SEGMENTS = Layout(
    lambda sizes, positions, segments: positions[sizes["padding_token_id"] :] + segments[0],
    _positions_and_segments_to_theirs,
)
