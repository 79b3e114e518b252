"""What turns a waveform into features: seven strided convolutions and a projection."""

import numbers

import keras
from keras import ops

from d2v_tf.backbones.compiled_parts import (
    LayerNormalization,
    exact_gelu,
    one_by_one,
    rowwise,
)

# PyTorch's default, which the reference uses in the convolution stack whatever else is configured.
CONV_EPSILON = 1e-5


def feature_lengths(num_samples, kernel_sizes, strides):
    """Frames that `num_samples` samples give: `floor((n - kernel) / stride) + 1`, layer by layer.

    Args:
        num_samples: int, or an integer tensor of any shape.
        kernel_sizes, strides: ints, one each a layer.

    Returns:
        int for an int, else an integer tensor; 0 for less than the first frame needs.
    """
    length = num_samples
    for kernel_size, stride in zip(kernel_sizes, strides, strict=True):
        length = (length - kernel_size) // stride + 1
    # Once it is 0 or less it stays so: one limit at the end is enough.
    return max(length, 0) if isinstance(length, numbers.Integral) else ops.maximum(length, 0)


def receptive_field(kernel_sizes, strides):
    """Samples that one frame sees, and the fewest that give one: 400 in the published models."""
    samples = 1
    for kernel_size, stride in zip(kernel_sizes[::-1], strides[::-1], strict=True):
        samples = (samples - 1) * stride + kernel_size
    return samples


class StridedConv(keras.layers.Layer):
    """A 1-D convolution without padding, as one matrix product over cut-out frames.

    The kernel lies as in Keras' `Conv1D`, `[kernel_size, C, filters]`.

    Args:
        filters: int. Channels of the output.
        kernel_size: int.
        stride: int.
        use_bias: bool.

    Call: `[B, N, C]` -> `[B, T, filters]`.
    """

    # Forward and backward of the seven layers on 2 x 10 s, 512 channels: Conv1D 8.2 s, XLA 3.8 s;
    # this 3.8 s, XLA 3.6 s (1 thread of a shared CPU, TF 2.21, 2026-11). One product a chunk of
    # `stride` taps, added up, needs no copy of the frames: 4.2 s, XLA 3.6 s.

    def __init__(self, filters, kernel_size, stride, use_bias=False, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.stride = stride
        self.use_bias = use_bias

    def build(self, input_shape):
        fan_in = self.kernel_size * input_shape[-1]
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.kernel_size, input_shape[-1], self.filters),
            # PyTorch's kaiming_normal_, which is not truncated.
            initializer=keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal"),
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(self.filters,),
                initializer=keras.initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5),
            )

    def call(self, x):
        length, channels = ops.shape(x)[1], x.shape[-1]
        stride = self.stride
        num_frames = (length - self.kernel_size) // stride + 1
        # A chunk of `stride` taps needs no copy: frames side by side, every sample once.
        whole = self.kernel_size // stride * stride
        taps = [
            ops.reshape(x[:, i : i + num_frames * stride], (-1, num_frames, stride * channels))
            for i in range(0, whole, stride)
        ]
        taps += [
            x[:, i : i + (num_frames - 1) * stride + 1 : stride]
            for i in range(whole, self.kernel_size)
        ]
        frames = taps[0] if len(taps) == 1 else ops.concatenate(taps, axis=-1)
        x = ops.matmul(frames, ops.reshape(self.kernel, (-1, self.filters)))  # [B, T, filters]
        return x if self.bias is None else x + self.bias

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "stride": self.stride,
            "use_bias": self.use_bias,
        }


class WaveformFrontend(keras.layers.Layer):
    """Convolutions over the waveform, each with layer norm and GELU; layer norm; a projection.

    A frame is real exactly where all samples that it sees are: `feature_lengths` of the number of
    real samples. So no real frame ever sees padding, which must stand at the end.

    Args:
        hidden_dim: int. Width D of the features.
        conv_dims, conv_kernel_sizes, conv_strides: ints, one each a convolution.
        conv_bias: bool. Whether the convolutions have biases.
        feature_grad_mult: float. What the gradient is multiplied by before it enters the
            convolutions; 0 freezes them.
        layer_norm_epsilon: float. Of the norm before the projection.

    Call: a dict of `"waveform"` `[B, N]` and optionally `"padding_mask"` `[B, N]`, 1 = real.
    Returns `{"features": [B, T, D], "padding_mask": bool [B, T] or None}`.

    Raises:
        ValueError: for conv arguments of unequal length, or a waveform too short for one frame.
    """

    def __init__(
        self,
        hidden_dim,
        conv_dims,
        conv_kernel_sizes,
        conv_strides,
        conv_bias=False,
        feature_grad_mult=1.0,
        layer_norm_epsilon=1e-5,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not len(conv_dims) == len(conv_kernel_sizes) == len(conv_strides) > 0:
            raise ValueError(
                "conv_dims, conv_kernel_sizes and conv_strides must have one entry each a layer. "
                f"Received: conv_dims={conv_dims}, conv_kernel_sizes={conv_kernel_sizes}, "
                f"conv_strides={conv_strides}"
            )
        if feature_grad_mult < 0:
            raise ValueError(f"feature_grad_mult must be at least 0. Received: {feature_grad_mult}")
        self.hidden_dim = hidden_dim
        self.conv_dims = tuple(conv_dims)
        self.conv_kernel_sizes = tuple(conv_kernel_sizes)
        self.conv_strides = tuple(conv_strides)
        self.conv_bias = conv_bias
        self.feature_grad_mult = feature_grad_mult
        self.layer_norm_epsilon = layer_norm_epsilon

        common = {"dtype": self.dtype_policy}
        self.convs = [
            StridedConv(dim, kernel_size, stride, use_bias=conv_bias, name=f"conv_{i}", **common)
            for i, (dim, kernel_size, stride) in enumerate(
                zip(conv_dims, conv_kernel_sizes, conv_strides, strict=True)
            )
        ]
        self.conv_norms = [
            LayerNormalization(epsilon=CONV_EPSILON, name=f"conv_norm_{i}", **common)
            for i in range(len(conv_dims))
        ]
        self.feature_norm = LayerNormalization(
            epsilon=layer_norm_epsilon, name="feature_norm", **common
        )
        # PyTorch's default for a linear layer, which the reference leaves here.
        limit = conv_dims[-1] ** -0.5
        self.projection = keras.layers.Dense(
            hidden_dim,
            kernel_initializer=keras.initializers.RandomUniform(-limit, limit),
            bias_initializer=keras.initializers.RandomUniform(-limit, limit),
            name="projection",
            **common,
        )

    def build(self, input_shape):
        dim = 1
        for conv, norm in zip(self.convs, self.conv_norms, strict=True):
            conv.build((None, None, dim))
            dim = conv.filters
            norm.build((None, None, dim))
        self.feature_norm.build((None, None, dim))
        self.projection.build((None, None, dim))
        if self.feature_grad_mult == 0:
            self.freeze_convolutions()

    def freeze_convolutions(self):
        """Keeps the convolutions and their norms as they are; norm and projection stay trained."""
        for layer in [*self.convs, *self.conv_norms]:
            layer.trainable = False

    def call(self, inputs, training=None):
        layers = [*self.convs, *self.conv_norms]
        x = one_by_one(self.conv_features, layers, inputs["waveform"])
        if self.feature_grad_mult == 0:
            x = ops.stop_gradient(x)
        elif self.feature_grad_mult != 1:
            still = ops.stop_gradient(x)
            x = still + self.feature_grad_mult * (x - still)  # the same number, to the bit
        return {
            "features": self.projection(self.feature_norm(x)),
            "padding_mask": self.feature_padding_mask(inputs),
        }

    def compute_output_spec(self, inputs, training=None):
        # Without it Keras tries waveforms of its own to find the shapes, too short for a frame.
        batch, samples = inputs["waveform"].shape
        frames = None if samples is None else self.feature_lengths(samples)
        mask = inputs.get("padding_mask")
        if mask is not None:
            mask = keras.KerasTensor((batch, frames), dtype="bool")
        features = keras.KerasTensor((batch, frames, self.hidden_dim), dtype=self.compute_dtype)
        return {"features": features, "padding_mask": mask}

    def conv_features(self, waveform):
        """What the convolutions make of a waveform: `[B, N]` -> `[B, T, conv_dims[-1]]`."""
        length, shortest = (
            waveform.shape[1],
            receptive_field(self.conv_kernel_sizes, self.conv_strides),
        )
        if length is not None and length < shortest:
            raise ValueError(
                f"A waveform must have at least {shortest} samples, which give one frame. "
                f"Received: waveform.shape={tuple(waveform.shape)}"
            )
        x = waveform[..., None]  # [B, N, 1]
        for conv, norm in zip(self.convs, self.conv_norms, strict=True):
            x = rowwise(exact_gelu, norm(conv(x)))
        return x

    def feature_lengths(self, num_samples):
        """Frames that `num_samples` samples give; see the function of this name."""
        return feature_lengths(num_samples, self.conv_kernel_sizes, self.conv_strides)

    def feature_padding_mask(self, inputs):
        """Which frames are real, without computing them: bool `[B, T]`, or `None` where all are."""
        padding_mask = inputs.get("padding_mask")
        if padding_mask is None:
            return None
        real = ops.cast(ops.cast(padding_mask, "bool"), "int32")  # sums exactly in any precision
        num_frames = self.feature_lengths(ops.shape(real)[1])
        lengths = self.feature_lengths(ops.sum(real, axis=1))
        return ops.arange(num_frames, dtype="int32")[None, :] < lengths[:, None]

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "conv_dims": self.conv_dims,
            "conv_kernel_sizes": self.conv_kernel_sizes,
            "conv_strides": self.conv_strides,
            "conv_bias": self.conv_bias,
            "feature_grad_mult": self.feature_grad_mult,
            "layer_norm_epsilon": self.layer_norm_epsilon,
        }
