"""One vector for an image, a recording or a text, out of its sequence of features."""

import keras
from keras import ops

from d2v_tf.backbones.speech_frontend import feature_lengths


class PatchMean(keras.layers.Layer):
    """The mean over the patches, without the class token.

    Args:
        num_prefix_tokens: int. Positions in front that are no patches.

    Call: `[B, P + T, D]` -> `[B, D]`.
    """

    def __init__(self, num_prefix_tokens=1, **kwargs):
        super().__init__(**kwargs)
        self.num_prefix_tokens = num_prefix_tokens

    def call(self, x):
        return ops.mean(x[:, self.num_prefix_tokens :], axis=1)

    def get_config(self):
        return {**super().get_config(), "num_prefix_tokens": self.num_prefix_tokens}


class TokenMean(keras.layers.Layer):
    """The mean over the tokens that are not padding.

    Call: `[B, T, D]` and the padding mask `[B, T]`, 1 = real -> `[B, D]`. An example of padding
    alone gives zeros.
    """

    def call(self, x, padding_mask):
        real = ops.cast(padding_mask, x.dtype)[..., None]  # [B, T, 1]
        return ops.sum(x * real, axis=1) / ops.maximum(ops.sum(real, axis=1), 1)


class FrameMean(keras.layers.Layer):
    """The mean over the frames that are not padding.

    Args:
        conv_kernel_sizes, conv_strides: ints. Of the waveform's convolutions.

    Call: frames `[B, T, D]` and the samples' padding mask `[B, N]`, 1 = real, or `None` ->
    `[B, D]`. An example without a whole frame gives zeros.
    """

    def __init__(self, conv_kernel_sizes, conv_strides, **kwargs):
        super().__init__(**kwargs)
        self.conv_kernel_sizes = tuple(conv_kernel_sizes)
        self.conv_strides = tuple(conv_strides)

    def call(self, x, padding_mask=None):
        if padding_mask is None:
            return ops.mean(x, axis=1)
        samples = ops.sum(ops.cast(ops.cast(padding_mask, "bool"), "int32"), axis=1)
        lengths = feature_lengths(samples, self.conv_kernel_sizes, self.conv_strides)  # [B]
        real = ops.arange(ops.shape(x)[1], dtype="int32")[None, :] < lengths[:, None]
        weights = ops.cast(real, x.dtype)[..., None]  # [B, T, 1]
        counts = ops.cast(ops.maximum(lengths, 1), x.dtype)[:, None]
        return ops.sum(x * weights, axis=1) / counts

    def get_config(self):
        return {
            **super().get_config(),
            "conv_kernel_sizes": self.conv_kernel_sizes,
            "conv_strides": self.conv_strides,
        }
