"""Masks: which positions the student must predict without seeing them."""

import math

import numpy as np
import tensorflow as tf

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


@tf.function(reduce_retracing=True)
def _draw_uniforms(seeds):
    # One small call an example keeps a mask independent of the batch that it is drawn in.
    return tf.map_fn(
        lambda seed: tf.random.stateless_uniform((MAX_DRAWS, 4), seed),
        seeds,
        fn_output_signature=tf.TensorSpec((MAX_DRAWS, 4), tf.float32),
    )


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
    # The traced function is shared by batches of all sizes and forgets this one's.
    draws = tf.ensure_shape(_draw_uniforms(seeds), (seeds.shape[0], MAX_DRAWS, 4))
    draws = tf.transpose(draws, (1, 2, 0))  # [draws, 4, B]
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


def max_masked_tokens(length, ratio=0.15, span_length=1):
    """The most tokens that `token_mask` masks in an example of `length`.

    Args:
        length: int. T, special tokens and padding included.
        ratio: float. The part of the tokens to mask.
        span_length: int.
    """
    return span_length * min(math.ceil(ratio * length / span_length), length // span_length)


def token_mask(
    token_ids,
    seed,
    mask_token_id,
    special_token_ids,
    vocabulary_size,
    ratio=0.15,
    span_length=1,
    random_part=0.1,
    keep_part=0.1,
):
    """Masks tokens one by one as BERT does (arXiv 1810.04805), or in spans.

    Of an example's tokens, special ones apart, `ratio` are masked: a fixed number, its fraction
    rounded at random, drawn without replacement. With `span_length` they are whole spans that do
    not overlap, every arrangement of them equally likely; a special token within a span stays, and
    the span goes on behind it. (The released code lets spans of four overlap: where it asks for
    35%, 31% are masked.) Of the masked tokens `keep_part` stay what they are, `random_part` become
    any ordinary token of the vocabulary, the rest `<mask>`, each by a draw of its own.

    A graph function: all examples of a batch are masked side by side, with static shapes.

    Args:
        token_ids: int32 `[T]` or `[B, T]`.
        seed: int tensor `[2]` or `[B, 2]`, as `token_ids`; equal seeds and tokens, equal masks.
        mask_token_id: int. `<mask>`.
        special_token_ids: sequence of int. What is neither masked nor drawn, padding included.
        vocabulary_size: int.
        ratio: float. The part of the tokens to mask.
        span_length: int. 1 masks tokens one by one.
        random_part, keep_part: floats. Parts of the masked tokens.

    Returns:
        `token_ids` with the masked tokens replaced, and bool of the same shape, True = to predict:
        at most `max_masked_tokens(T, ratio, span_length)` in an example.

    Raises:
        ValueError: for parts and lengths outside these.
    """
    token_ids, seed = tf.convert_to_tensor(token_ids, tf.int32), tf.convert_to_tensor(seed)
    length = token_ids.shape[-1]
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must be above 0 and at most 1. Received: {ratio}")
    if not 1 <= span_length <= length:
        raise ValueError(
            f"span_length must be between 1 and the {length} tokens. Received: {span_length}"
        )
    if min(random_part, keep_part) < 0 or random_part + keep_part > 1:
        raise ValueError(
            "random_part and keep_part must be parts of the masked tokens. "
            f"Received: random_part={random_part}, keep_part={keep_part}"
        )
    is_special = np.zeros(vocabulary_size, bool)
    is_special[[*special_token_ids, mask_token_id]] = True
    ordinary = np.flatnonzero(~is_special).astype("int32")

    if token_ids.shape.rank == 1:
        draws = _draw_for_tokens(seed[None], length)
        tokens = token_ids[None]
    else:
        draws = _draw_for_tokens(seed, length)
        tokens = token_ids
    place, change, which = tf.unstack(draws[:, :, :-1], axis=1)  # each [B, T]
    maskable = ~tf.gather(tf.constant(is_special), tokens)
    mask = _span_masks(maskable, place, draws[:, 0, -1:], ratio, span_length)
    # A float draw times the number of tokens may round up to that number.
    which = tf.cast(which * len(ordinary), tf.int32)
    drawn = tf.gather(tf.constant(ordinary), tf.minimum(which, len(ordinary) - 1))
    masked = tf.where(mask & (change >= keep_part), mask_token_id, tokens)
    masked = tf.where(mask & (change >= 1 - random_part), drawn, masked)
    if token_ids.shape.rank == 1:
        return masked[0], mask[0]
    return masked, mask


@tf.function(reduce_retracing=True)
def _draw_for_tokens(seeds, length):
    # One small call an example keeps a mask independent of the batch that it is drawn in.
    return tf.map_fn(
        lambda seed: tf.random.stateless_uniform((3, length + 1), seed),
        seeds,
        fn_output_signature=tf.TensorSpec((3, length + 1), tf.float32),
    )


def _span_masks(maskable, place, rounding, ratio, span_length):
    """Bool `[B, T]`: spans of maskable positions, counted as if the others were not there."""
    length = maskable.shape[1]
    number = tf.math.count_nonzero(maskable, axis=1, keepdims=True, dtype=tf.int32)  # [B, 1]
    wanted = ratio * tf.cast(number, tf.float32) / span_length + rounding
    num_spans = tf.minimum(tf.cast(wanted, tf.int32), number // span_length)
    # Float errors may lift what is rounded over the fixed most.
    num_spans = tf.minimum(num_spans, max_masked_tokens(length, ratio, span_length) // span_length)

    # A span shrunk to its first position is one of `slots` positions, and any n of them may be it.
    slots = number - num_spans * (span_length - 1)
    positions = tf.range(length)[None, :]
    place = tf.where(positions < slots, place, 2.0)
    order = tf.argsort(tf.argsort(place, axis=1, stable=True), axis=1)  # ranks, no two alike
    is_start = tf.cast(order < num_spans, tf.int32)
    # Grown again, each span pushes what is behind it along.
    before = tf.cumsum(is_start, axis=1, exclusive=True)
    pushed = tf.minimum(positions + before * (span_length - 1), length - 1)
    starts = tf.math.bincount(pushed, weights=is_start, minlength=length, maxlength=length, axis=-1)
    ends = tf.pad(starts, [[0, 0], [span_length, 0]])[:, :length]
    covered = tf.cumsum(starts - ends, axis=1) > 0
    count = tf.maximum(tf.cumsum(tf.cast(maskable, tf.int32), axis=1) - 1, 0)
    return maskable & tf.gather(covered, count, batch_dims=1)
