"""Spans of frames, and of channels (speech)."""

import math

import tensorflow as tf

from d2v_tf.masking.draws import draw_uniforms


def max_masked_frames(num_frames, start_ratio=0.065, span_length=10, min_spans=1):
    """The most frames that `span_mask` can mask in an example, where no two spans overlap.

    Args: as `span_mask`, for examples of up to `num_frames`.
    """
    return min(_max_spans(num_frames, start_ratio, min_spans) * span_length, num_frames - 1)


def span_mask(
    num_frames,
    seed,
    lengths=None,
    start_ratio=0.065,
    span_length=10,
    min_spans=1,
    equal_counts=True,
):
    """Draws masks of spans of frames (wav2vec 2.0, arXiv 2006.11477, section 3.1).

    An example of n real frames gets `start_ratio * n` spans, rounded up or down at random in
    proportion to the fraction; their first frames are drawn without replacement, uniformly, so
    that spans may overlap: with the defaults 49% of the frames end up masked. As in fairseq
    (`compute_mask_indices`) starts lie among the first `n - span_length` frames; in an example
    shorter than that needs, among the first `spans + 1`, and spans end where the frames do. At
    least one real frame stays visible.

    Then every example of the batch keeps as many masked frames as the one with fewest, its surplus
    unmasked at random: of 8 examples of 10 s, 45% stay masked. So batch examples of like lengths.
    (fairseq rounds once for a batch without padding, this once an example.) Examples of less than
    two frames get no mask and do not count.

    A graph function with static shapes. It compiles under XLA too, which draws other numbers.

    Args:
        num_frames: int. T, padding included.
        seed: int tensor `[2]`, or `[B, 2]` for B masks; equal seeds and lengths give equal spans.
        lengths: optional int tensor, scalar or `[B]`: the real frames, which come first. Padding is
            never masked. Defaults to T.
        start_ratio: float in (0, 1). The part of the frames that start a span.
        span_length: int. Frames of a span.
        min_spans: int. The fewest spans in an example.
        equal_counts: bool. Whether all examples keep the same number of masked frames.

    Returns:
        bool `[T]`, or `[B, T]`. True = masked.

    Raises:
        ValueError: for arguments outside these.
    """
    _check_spans("start_ratio", start_ratio, span_length)
    seed = tf.convert_to_tensor(seed)
    seeds = seed[None] if seed.shape.rank == 1 else seed
    lengths = num_frames if lengths is None else lengths
    lengths = tf.broadcast_to(tf.cast(lengths, tf.int32), tf.shape(seeds)[:1])  # [B]
    masks = _span_masks(
        seeds, num_frames, lengths, start_ratio, span_length, min_spans, equal_counts
    )
    return masks[0] if seed.shape.rank == 1 else masks


def channel_mask(num_channels, seed, ratio=0.25, span_length=64):
    """Draws masks of spans of channels, to be zeroed in fine-tuning (arXiv 2006.11477, B).

    Spans are drawn as `span_mask` draws them, with fairseq's count: `ratio * D / span_length`,
    rounded at random, none at the least.

    Args:
        num_channels: int. D.
        seed: int tensor `[2]`, or `[B, 2]` for B masks; equal seeds give equal masks.
        ratio: float in (0, 1). The part of the channels that would be masked if no spans
            overlapped.
        span_length: int. Channels of a span.

    Returns:
        bool `[D]`, or `[B, D]`. True = masked.

    Raises:
        ValueError: for arguments outside these.
    """
    _check_spans("ratio", ratio, span_length)
    return span_mask(
        num_channels,
        seed,
        start_ratio=ratio / span_length,
        span_length=span_length,
        min_spans=0,
        equal_counts=False,
    )


def _check_spans(name, ratio, span_length):
    if not 0 < ratio < 1:
        raise ValueError(f"{name} must be between 0 and 1. Received: {ratio}")
    if span_length < 1:
        raise ValueError(f"span_length must be at least 1. Received: {span_length}")


def _max_spans(num_frames, start_ratio, min_spans):
    return min(max(math.floor(start_ratio * num_frames) + 1, min_spans), num_frames)


def _span_masks(seeds, num_frames, lengths, start_ratio, span_length, min_spans, equal_counts):
    # A row a frame, so that frames of padding at the end change no other row.
    draws = draw_uniforms(seeds, (1 + num_frames, 2))
    rounding, start_scores, visible_scores = draws[:, 0, 0], draws[:, 1:, 0], draws[:, 1:, 1]
    frames = tf.range(num_frames)

    num_spans = tf.floor(start_ratio * tf.cast(lengths, tf.float32) + rounding)
    num_spans = tf.minimum(tf.maximum(tf.cast(num_spans, tf.int32), min_spans), lengths)  # [B]
    num_starts = tf.minimum(tf.maximum(lengths - span_length, num_spans + 1), lengths)
    # The starts are the frames with the highest scores: a draw without replacement.
    start_scores = tf.where(frames < num_starts[:, None], start_scores, -1.0)
    max_spans = _max_spans(num_frames, start_ratio, min_spans)
    starts = tf.math.top_k(start_scores, max_spans).indices[:, :, None]  # [B, spans, 1]
    drawn = (tf.range(max_spans) < num_spans[:, None])[:, :, None]
    mask = tf.reduce_any(drawn & (frames >= starts) & (frames < starts + span_length), axis=1)
    mask &= frames < lengths[:, None]  # [B, T]

    counts = tf.math.count_nonzero(mask, axis=1, dtype=tf.int32)  # [B]
    counts = tf.maximum(tf.minimum(counts, lengths - 1), 0)
    if equal_counts:
        # An example that cannot be masked must not unmask the others.
        counts = tf.minimum(
            counts, tf.reduce_min(tf.where(lengths >= 2, counts, num_frames), keepdims=True)
        )
    # The masked frames with the highest scores stay masked.
    keep_scores = tf.where(mask, visible_scores, -1.0)
    order = tf.argsort(keep_scores, axis=1, direction="DESCENDING", stable=True)
    return tf.argsort(order, axis=1) < counts[:, None]
