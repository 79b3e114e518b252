"""The speech backbone: wav2vec 2.0's architecture as data2vec builds it."""

import keras

from d2v_tf.backbones.backbone import Data2VecBackbone, MaskToken
from d2v_tf.backbones.speech_frontend import WaveformFrontend
from d2v_tf.backbones.speech_positions import ConvPositions
from d2v_tf.backbones.transformer import TransformerEncoder


@keras.saving.register_keras_serializable(package="d2v_tf")
class Data2VecSpeechBackbone(Data2VecBackbone):
    """data2vec's speech encoder: waveform convolutions, convolutional positions, post-norm blocks.

    With `padding="reference"` equal to Hugging Face's `Data2VecAudioModel` (arXiv 2006.11477 with
    the changes of 2202.03555) for the same weights. The defaults are the published Base model's,
    without its dropout.

    Args:
        num_layers: int. Transformer blocks.
        hidden_dim: int. Width D.
        num_heads: int. Attention heads; divides `hidden_dim`.
        intermediate_dim: int. Width of the feed-forward networks.
        conv_dims: ints. Channels of the waveform's convolutions.
        conv_kernel_sizes: ints. Their kernels.
        conv_strides: ints. Their strides; 16 kHz becomes 50 frames a second.
        conv_bias: bool. Whether they have biases. Defaults to `False`.
        position_conv_layers: int. Grouped convolutions of the position encoder.
        position_conv_kernel_size: int. Frames that each of them sees.
        position_conv_groups: int. Groups of channels; divides `hidden_dim`.
        dropout: float. Dropout rate of the encoder's input and both branches of a block.
        attention_dropout: float. Dropout rate of the attention weights.
        activation_dropout: float. Dropout rate inside the feed-forward networks.
        feature_dropout: float. Dropout rate of the features, after masking.
        layer_drop: float. Rate at which whole blocks are left out of a training step.
        feature_grad_mult: float. What the gradient is multiplied by before it enters the
            waveform's convolutions; 0 freezes them. Defaults to 1.
        layer_norm_epsilon: float. Of all norms but those between convolutions. Defaults to `1e-5`.
        activation: str. Of the feed-forward networks. Defaults to `"gelu"`, the exact one.
        padding: `"invariant"`, an example's output is the same whatever it is padded with and how
            far; or `"reference"`, as published checkpoints were trained: padding is zeroed once
            before the position encoder, and reaches real frames through its biases.
        dtype: optional dtype policy or its name.

    Input: a dict of `"waveform"` `[B, N]` float, 16 kHz, zero mean and unit variance an utterance,
    and `"padding_mask"` `[B, N]`, 1 = real, with the padding at the end; it may be `None` or left
    out where there is none. Output: `[B, T, D]`.

    Raises:
        ValueError: where `num_heads` or `position_conv_groups` does not divide the width, the
            `conv_*` differ in length, or a rate or `padding` is none.

    Example:
    ```python
    backbone = d2v_tf.Data2VecSpeechBackbone(
        num_layers=4, hidden_dim=128, num_heads=4, intermediate_dim=512, conv_dims=[64] * 7,
    )
    backbone({"waveform": np.zeros((2, 16000), "float32")}).shape  # (2, 49, 128)
    backbone.feature_lengths(16000)  # 49
    ```
    """

    def __init__(
        self,
        num_layers=12,
        hidden_dim=768,
        num_heads=12,
        intermediate_dim=3072,
        conv_dims=(512,) * 7,
        conv_kernel_sizes=(10, 3, 3, 3, 3, 2, 2),
        conv_strides=(5, 2, 2, 2, 2, 2, 2),
        conv_bias=False,
        position_conv_layers=5,
        position_conv_kernel_size=19,
        position_conv_groups=16,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feature_dropout=0.0,
        layer_drop=0.0,
        feature_grad_mult=1.0,
        layer_norm_epsilon=1e-5,
        activation="gelu",
        padding="invariant",
        dtype=None,
        **kwargs,
    ):
        if hidden_dim % num_heads:
            raise ValueError(
                f"num_heads must divide hidden_dim. "
                f"Received: hidden_dim={hidden_dim}, num_heads={num_heads}"
            )

        # === Layers ===
        frontend = WaveformFrontend(
            hidden_dim,
            conv_dims,
            conv_kernel_sizes,
            conv_strides,
            conv_bias=conv_bias,
            feature_grad_mult=feature_grad_mult,
            layer_norm_epsilon=layer_norm_epsilon,
            dtype=dtype,
            name="frontend",
        )
        mask_token = MaskToken(
            keras.initializers.RandomUniform(0.0, 1.0), dtype=dtype, name="mask_token"
        )
        positions = ConvPositions(
            position_conv_layers,
            position_conv_kernel_size,
            position_conv_groups,
            padding=padding,
            feature_dropout=feature_dropout,
            dropout=dropout,
            layer_norm_epsilon=layer_norm_epsilon,
            dtype=dtype,
            name="positions",
        )
        encoder = TransformerEncoder(
            num_layers=num_layers,
            num_heads=num_heads,
            intermediate_dim=intermediate_dim,
            normalize_first=False,
            dropout=dropout,
            attention_dropout=attention_dropout,
            activation_dropout=activation_dropout,
            layer_drop=layer_drop,
            layer_norm_epsilon=layer_norm_epsilon,
            activation=activation,
            dtype=dtype,
            name="encoder",
        )

        # === Functional model ===
        super().__init__(
            inputs={
                "waveform": keras.Input((None,), name="waveform"),
                "padding_mask": keras.Input(
                    (None,), name="padding_mask", dtype="int32", optional=True
                ),
            },
            frontend=frontend,
            mask_token=mask_token,
            positions=positions,
            encoder=encoder,
            dtype=dtype,
            **kwargs,
        )

        # === Config ===
        self.num_layers = num_layers
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.conv_dims = tuple(conv_dims)
        self.conv_kernel_sizes = tuple(conv_kernel_sizes)
        self.conv_strides = tuple(conv_strides)
        self.conv_bias = conv_bias
        self.position_conv_layers = position_conv_layers
        self.position_conv_kernel_size = position_conv_kernel_size
        self.position_conv_groups = position_conv_groups
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.activation_dropout = activation_dropout
        self.feature_dropout = feature_dropout
        self.layer_drop = layer_drop
        self.feature_grad_mult = feature_grad_mult
        self.layer_norm_epsilon = layer_norm_epsilon
        self.activation = activation
        self.padding = padding

    def complete_inputs(self, inputs):
        """The inputs with a padding mask, which is `None` where it was left out."""
        if isinstance(inputs, dict) and "padding_mask" not in inputs:
            return {**inputs, "padding_mask": None}  # Keras knows optional, not missing, inputs
        return inputs

    def feature_lengths(self, num_samples):
        """Frames that `num_samples` samples give.

        Args:
            num_samples: int, or an integer tensor of any shape.

        Returns:
            int for an int, else an integer tensor.
        """
        return self.frontend.feature_lengths(num_samples)

    def feature_padding_mask(self, inputs):
        """Which frames of `inputs` are real: for whoever averages, decodes or counts them.

        Args:
            inputs: what the backbone is called with.

        Returns:
            bool `[B, T]`, True = real, or `None` where there is no padding mask.
        """
        return self.frontend.feature_padding_mask(inputs)

    def get_config(self):
        return {
            **super().get_config(),
            "num_layers": self.num_layers,
            "hidden_dim": self.hidden_dim,
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "conv_dims": self.conv_dims,
            "conv_kernel_sizes": self.conv_kernel_sizes,
            "conv_strides": self.conv_strides,
            "conv_bias": self.conv_bias,
            "position_conv_layers": self.position_conv_layers,
            "position_conv_kernel_size": self.position_conv_kernel_size,
            "position_conv_groups": self.position_conv_groups,
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "activation_dropout": self.activation_dropout,
            "feature_dropout": self.feature_dropout,
            "layer_drop": self.layer_drop,
            "feature_grad_mult": self.feature_grad_mult,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "activation": self.activation,
            "padding": self.padding,
        }
