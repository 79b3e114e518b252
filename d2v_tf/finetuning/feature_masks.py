"""Masks on a frontend's features in training, as SpecAugment has them (arXiv 1904.08779)."""

import keras
from keras import ops


def random_spans(seed, lengths, size, ratio, span_length, min_spans):
    """Draws spans in rows of different lengths, on any backend, with static shapes.

    The draw is wav2vec 2.0's, as `d2v_tf.masking.span_mask` makes it in the input pipeline: a row
    of n places gets `ratio * n / span_length` spans, rounded up or down at random in proportion to
    the fraction. Their first places are drawn without replacement, uniformly, among the first
    `n - span_length`; in a row shorter than that needs, among the first `spans + 1`. Spans may
    overlap and end where the row does.

    Args:
        seed: `keras.random.SeedGenerator`.
        lengths: int `[B]`. Real places of each row, which come first.
        size: int. Places of a row.
        ratio: float. The part that would be in spans if no two overlapped.
        span_length: int.
        min_spans: int. The fewest spans in a row.

    Returns:
        bool `[B, size]`.
    """
    batch = ops.shape(lengths)[0]
    lengths = ops.cast(lengths, "int32")
    rounding = keras.random.uniform((batch,), seed=seed)
    spans = ops.floor(ratio / span_length * ops.cast(lengths, "float32") + rounding)
    spans = ops.minimum(ops.maximum(ops.cast(spans, "int32"), min_spans), lengths)
    num_starts = ops.minimum(ops.maximum(lengths - span_length, spans + 1), lengths)
    places = ops.arange(size, dtype="int32")[None]
    scores = keras.random.uniform((batch, size), seed=seed)
    scores = ops.where(places < num_starts[:, None], scores, -1.0)
    # The places of the highest scores: a draw without replacement.
    ranks = ops.argsort(ops.argsort(-scores, axis=1), axis=1)
    starts = ops.cast(ops.cast(ranks, "int32") < spans[:, None], "int32")
    begun = ops.cumsum(starts, axis=1)
    ended = ops.pad(begun, ((0, 0), (span_length, 0)))[:, :size]
    return ops.logical_and(begun > ended, places < lengths[:, None])


def check_masks(**masks):
    """Refuses what is no mask.

    Args:
        **masks: kind -> (ratio, length).

    Raises:
        ValueError: for a ratio that is not in [0, 1), or a length below 1.
    """
    for kind, (ratio, length) in masks.items():
        if not 0 <= ratio < 1 or length < 1:
            raise ValueError(
                f"{kind}_mask_ratio must be at least 0 and below 1, and {kind}_mask_length at "
                f"least 1. Received: {ratio} and {length}"
            )


def masked_hidden_states(backbone, inputs, time_mask, channel_mask):
    """A speech backbone's last hidden states `[B, T, D]`, with masks on its features in training.

    Args:
        backbone: `Data2VecSpeechBackbone`. Its mask token is trained only if frames are hidden.
        inputs: the backbone's symbolic inputs.
        time_mask: `TimeMask`.
        channel_mask: `ChannelMask`.
    """
    if not time_mask.ratio:
        backbone.mask_token.trainable = False  # it would get no gradient
    embedded = backbone.frontend(inputs)
    features, padding_mask = embedded["features"], embedded["padding_mask"]
    features = backbone.mask_token(features, time_mask(features, padding_mask))
    features = channel_mask(features)
    hidden = backbone.encoder(backbone.positions(features, padding_mask), padding_mask)
    return hidden if backbone.final_norm is None else backbone.final_norm(hidden)


class TimeMask(keras.layers.Layer):
    """Which frames are hidden in training: spans, drawn anew at every call.

    Args:
        ratio: float. As `random_spans`; 0 hides nothing.
        span_length: int.

    Call: (features `[B, T, D]`, optional padding mask `[B, T]`, 1 = real) -> bool `[B, T]`, True =
    hidden; all `False` outside training. Padding is never hidden.
    """

    def __init__(self, ratio, span_length, **kwargs):
        super().__init__(**kwargs)
        self.ratio = ratio
        self.span_length = span_length
        self.seed_generator = keras.random.SeedGenerator()

    def call(self, features, padding_mask=None, training=None):
        size = ops.shape(features)[1]
        real = ops.ones_like(features[..., 0], dtype="int32")
        if padding_mask is not None:
            real = ops.cast(ops.cast(padding_mask, "bool"), "int32")
        if not training or not self.ratio:
            return ops.zeros_like(real, dtype="bool")
        lengths = ops.sum(real, axis=1)
        return random_spans(
            self.seed_generator, lengths, size, self.ratio, self.span_length, min_spans=1
        )

    def compute_output_spec(self, features, *_, **__):
        return keras.KerasTensor(features.shape[:2], dtype="bool")

    def get_config(self):
        return {**super().get_config(), "ratio": self.ratio, "span_length": self.span_length}


class ChannelMask(keras.layers.Layer):
    """Sets spans of channels of each example to zero in training, drawn anew at every call.

    Args:
        ratio: float. As `random_spans`; 0 zeroes nothing.
        span_length: int.

    Call: `[B, T, D]` -> `[B, T, D]`.
    """

    def __init__(self, ratio, span_length, **kwargs):
        super().__init__(**kwargs)
        self.ratio = ratio
        self.span_length = span_length
        self.seed_generator = keras.random.SeedGenerator()

    def call(self, x, training=None):
        if not training or not self.ratio:
            return x
        channels = x.shape[-1]
        lengths = ops.full_like(x[:, 0, 0], channels, dtype="int32")
        mask = random_spans(
            self.seed_generator, lengths, channels, self.ratio, self.span_length, min_spans=0
        )
        return ops.where(mask[:, None], ops.zeros_like(x), x)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "ratio": self.ratio, "span_length": self.span_length}
