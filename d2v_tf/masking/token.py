"""Tokens, one by one or in spans (text)."""

import math

import numpy as np
import tensorflow as tf

from d2v_tf.masking.draws import draw_uniforms


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

    alone = token_ids.shape.rank == 1
    tokens, seeds = (token_ids[None], seed[None]) if alone else (token_ids, seed)
    draws = draw_uniforms(seeds, (3, length + 1))
    place, change, which = tf.unstack(draws[:, :, :-1], axis=1)  # each [B, T]
    maskable = ~tf.gather(tf.constant(is_special), tokens)
    mask = _span_masks(maskable, place, draws[:, 0, -1:], ratio, span_length)
    # A float draw times the number of tokens may round up to that number.
    which = tf.cast(which * len(ordinary), tf.int32)
    drawn = tf.gather(tf.constant(ordinary), tf.minimum(which, len(ordinary) - 1))
    masked = tf.where(mask & (change >= keep_part), mask_token_id, tokens)
    masked = tf.where(mask & (change >= 1 - random_part), drawn, masked)
    return (masked[0], mask[0]) if alone else (masked, mask)


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
