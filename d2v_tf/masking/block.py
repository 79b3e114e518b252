"""Blocks of patches (vision)."""

import math

import tensorflow as tf

from d2v_tf.masking.draws import draw_uniforms

# BEiT gives up on a block after this many draws, and then on the mask.
MAX_ATTEMPTS = 10
# Draws prepared for one mask. One of 14 x 14 patches takes 18 on average; the most seen in 6,000 on
# any grid up to 32 x 32 was 58 (2026-11).
MAX_DRAWS = 96


def num_masked_patches(shape, ratio):
    """Returns the quota of a grid of patches: `ratio` of them, rounded to the nearest integer.

    Args:
        shape: (int, int). Patches per column and per row.
        ratio: float in (0, 1).
    """
    return int(math.floor(ratio * shape[0] * shape[1] + 0.5))


def block_mask(shape, seed, ratio=0.6, num_masked=None, min_block=16, max_aspect=1 / 0.3):
    """Draws block-wise masks (BEiT, arXiv 2106.08254, algorithm 1).

    Blocks are drawn until the quota is masked: area uniform between `min_block` and what is left
    of the quota (never below `min_block`), aspect ratio log-uniform in `[1 / max_aspect,
    max_aspect]`, place uniform. A block of fewer than `min_block` patches after rounding, one that
    does not fit the grid, adds nothing or adds more than is left is drawn again, up to ten times;
    then the mask stays as it is. So a mask never has more than the quota and sometimes fewer, 115.7
    of 118 on average. (BEiT's own code lets the last blocks shrink below `min_block`: 117.5.)

    A graph function: all masks of a batch are drawn side by side, with static shapes.

    Args:
        shape: (int, int). Patches per column and per row, H and W.
        seed: int tensor `[2]`, or `[B, 2]` for B masks; equal seeds give equal masks.
        ratio: float. The part of the patches to mask.
        num_masked: optional int. The quota as a number; replaces `ratio`.
        min_block: int. Patches in the smallest block.
        max_aspect: float. The most elongated block.

    Returns:
        bool `[H, W]`, or `[B, H, W]`. True = masked.

    Raises:
        ValueError: where quota and `min_block` do not fit the grid.
    """
    height, width = shape
    quota = num_masked_patches(shape, ratio) if num_masked is None else num_masked
    if not 0 < quota <= height * width:
        raise ValueError(
            f"The quota must be between 1 and the {height * width} patches. Received: {quota}"
        )
    if not 0 < min_block <= quota:
        raise ValueError(
            f"min_block must be between 1 and the quota {quota}. Received: {min_block}"
        )
    seed = tf.convert_to_tensor(seed)
    seeds = seed[None] if seed.shape.rank == 1 else seed
    masks = _block_masks(seeds, height, width, quota, float(min_block), math.log(max_aspect))
    return masks[0] if seed.shape.rank == 1 else masks


def _block_masks(seeds, height, width, quota, min_block, log_aspect):
    batch = tf.shape(seeds)[0]
    draws = tf.transpose(draw_uniforms(seeds, (MAX_DRAWS, 4)), (1, 2, 0))  # [draws, 4, B]
    rows = tf.range(height, dtype=tf.float32)[None, :]
    columns = tf.range(width, dtype=tf.float32)[None, :]

    def unfinished(draw, mask, attempts, count):
        return (draw < MAX_DRAWS) & tf.reduce_any((attempts < MAX_ATTEMPTS) & (count < quota))

    def draw_block(draw, mask, attempts, count):
        area, aspect, top, left = tf.unstack(draws[draw])
        left_over = tf.cast(quota - count, tf.float32)
        area = min_block + area * tf.maximum(left_over - min_block, 0.0)
        aspect = tf.exp((2 * aspect - 1) * log_aspect)
        block_height = tf.round(tf.sqrt(area * aspect))
        block_width = tf.round(tf.sqrt(area / aspect))
        fits = (block_height < height) & (block_width < width)
        fits &= block_height * block_width >= min_block
        top = tf.floor(top * (height - block_height + 1))[:, None]
        left = tf.floor(left * (width - block_width + 1))[:, None]
        in_rows = (rows >= top) & (rows < top + block_height[:, None])  # [B, H]
        in_columns = (columns >= left) & (columns < left + block_width[:, None])  # [B, W]
        grown = mask | (in_rows[:, :, None] & in_columns[:, None, :])
        grown_count = tf.math.count_nonzero(grown, axis=(1, 2), dtype=tf.int32)
        accept = fits & (grown_count > count) & (grown_count <= quota) & (attempts < MAX_ATTEMPTS)
        return (
            draw + 1,
            tf.where(accept[:, None, None], grown, mask),
            tf.where(accept, 0, attempts + 1),
            tf.where(accept, grown_count, count),
        )

    zeros = tf.zeros([batch], tf.int32)
    empty = tf.zeros([batch, height, width], tf.bool)
    _, mask, _, _ = tf.while_loop(unfinished, draw_block, (0, empty, zeros, zeros))
    return mask
