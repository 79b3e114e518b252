"""The text backbone: RoBERTa's encoder."""

import keras
import numpy as np
from keras import ops

from d2v_tf.backbones.backbone import Data2VecBackbone
from d2v_tf.backbones.compiled_parts import LayerNormalization
from d2v_tf.backbones.initializers import TruncatedNormal
from d2v_tf.backbones.transformer import TransformerEncoder

POSITION_INITIALIZERS = ("normal", "sinusoidal")
# Wavelengths of sinusoidal positions, from 2 pi to this many times that. Attention Is All You Need
# (arXiv 1706.03762) has 10,000, for longer texts.
MAX_WAVELENGTH = 1000.0


class Sinusoids(keras.initializers.Initializer):
    """Sines and cosines of the row, `[N, D]`, as a learned table's first values.

    Row n has `sin(n / 1000^(2 i / D))` and `cos(n / 1000^(2 i / D))` for i in [0, D / 2), after
    arXiv 1706.03762, less their mean over the rows. The row a fixed number of positions away is
    then an affine function of a row; between random rows attention has to learn it pair by pair.

    Args:
        stddev: float. Standard deviation of the whole table, exactly.
    """

    def __init__(self, stddev):
        self.stddev = stddev

    def __call__(self, shape, dtype=None):
        rows, dim = shape
        half = -(-dim // 2)
        angles = np.arange(rows)[:, None] / MAX_WAVELENGTH ** (np.arange(half) / half)
        table = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)[:, :dim]
        table = table - table.mean(axis=0)
        return ops.convert_to_tensor(self.stddev * table / table.std(), dtype=dtype or "float32")

    def get_config(self):
        return {"stddev": self.stddev}


class TokenFrontend(keras.layers.Layer):
    """Embeds token ids.

    Args:
        vocabulary_size: int. Number of token types.
        hidden_dim: int. Width D of the features.
        padding_token_id: int. What stands where no token is.
        stddev: float. Standard deviation that the embeddings start with.

    Call: `{"token_ids": int [B, T], "padding_mask": [B, T]}`, 1 = real; where the mask is left out,
    every token but padding is real. Returns `{"features": [B, T, D], "padding_mask": bool [B, T]}`.
    """

    def __init__(self, vocabulary_size, hidden_dim, padding_token_id=1, stddev=0.02, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.hidden_dim = hidden_dim
        self.padding_token_id = padding_token_id
        self.stddev = stddev

    def build(self, input_shape):
        self.token_embedding = keras.layers.Embedding(
            self.vocabulary_size,
            self.hidden_dim,
            embeddings_initializer=TruncatedNormal(stddev=self.stddev),
            dtype=self.dtype_policy,
            name="token_embedding",
        )
        self.token_embedding.build(input_shape["token_ids"])

    def call(self, inputs, training=None):
        padding_mask = inputs.get("padding_mask")
        if padding_mask is None:
            padding_mask = ops.not_equal(inputs["token_ids"], self.padding_token_id)
        return {
            "features": self.token_embedding(inputs["token_ids"]),
            "padding_mask": ops.cast(padding_mask, "bool"),
        }

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "hidden_dim": self.hidden_dim,
            "padding_token_id": self.padding_token_id,
            "stddev": self.stddev,
        }


class LearnedPositions(keras.layers.Layer):
    """Adds a learned vector to each position, then layer norm and dropout.

    Real tokens are counted from 1 on, wherever padding stands; padding has position 0. RoBERTa
    keeps the same table further down, from row `padding_idx` on.

    Args:
        max_sequence_length: int. The most real tokens in an example.
        layer_norm_epsilon: float.
        dropout: float. Dropout rate of the result.
        initializer: `"normal"` or `"sinusoidal"`. What the table starts as.
        stddev: float. Standard deviation of its first values.

    Call: features `[B, T, D]` and a padding mask `[B, T]` -> `[B, T, D]`.
    """

    def __init__(
        self,
        max_sequence_length,
        layer_norm_epsilon=1e-5,
        dropout=0.0,
        initializer="normal",
        stddev=0.02,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.max_sequence_length = max_sequence_length
        self.layer_norm_epsilon = layer_norm_epsilon
        self.dropout_rate = dropout
        self.initializer = initializer
        self.stddev = stddev
        self.norm = LayerNormalization(
            epsilon=layer_norm_epsilon, dtype=self.dtype_policy, name="norm"
        )
        self.dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy)

    def build(self, input_shape, *_, **__):
        if self.initializer == "sinusoidal":
            initializer = Sinusoids(self.stddev)
        else:
            initializer = keras.initializers.TruncatedNormal(stddev=self.stddev)
        self.position_embedding = self.add_weight(
            name="position_embedding",
            shape=(1 + self.max_sequence_length, input_shape[-1]),
            initializer=initializer,
        )
        self.norm.build(input_shape)

    def call(self, x, padding_mask, training=None):
        # XLA would read the table's last row for every position past it, without a word.
        if x.shape[1] is not None and x.shape[1] > self.max_sequence_length:
            raise ValueError(
                "The text is longer than max_sequence_length. Received: "
                f"{x.shape[1]} tokens, max_sequence_length={self.max_sequence_length}"
            )
        real = ops.cast(padding_mask, "int32")
        positions = ops.cumsum(real, axis=1) * real  # [B, T]
        x = x + ops.cast(ops.take(self.position_embedding, positions, axis=0), x.dtype)
        return self.dropout(self.norm(x), training=training)

    def compute_output_shape(self, input_shape, *_, **__):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "max_sequence_length": self.max_sequence_length,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "dropout": self.dropout_rate,
            "initializer": self.initializer,
            "stddev": self.stddev,
        }


@keras.saving.register_keras_serializable(package="d2v_tf")
class Data2VecTextBackbone(Data2VecBackbone):
    """data2vec's text encoder: token and position embeddings, layer norm, post-norm blocks.

    Equal to Hugging Face's `Data2VecTextModel` (RoBERTa, arXiv 1907.11692) for the same weights.
    Their segment embedding, of which published models have a single all-zero row, is not kept
    apart: its row 0 is a constant that belongs into the rows of the position table.

    There is no mask token beside the vocabulary: the masked positions of `token_ids` hold
    `<mask>`.

    Args:
        vocabulary_size: int. Number of token types.
        max_sequence_length: int. The most tokens in an example, special ones included.
        num_layers: int. Transformer blocks.
        hidden_dim: int. Width D.
        num_heads: int. Attention heads; divides `hidden_dim`.
        intermediate_dim: int. Width of the feed-forward networks.
        dropout: float. Dropout rate of embeddings and both branches of a block.
        attention_dropout: float. Dropout rate of the attention weights.
        layer_norm_epsilon: float. Defaults to `1e-5`.
        activation: str. Of the feed-forward networks. Defaults to `"gelu"`, the exact one.
        padding_token_id: int. Defaults to `1`, RoBERTa's.
        token_stddev: float. Standard deviation of the normal distribution that token embeddings
            start from, cut off at twice it (0.88 of it is left). Defaults to `0.02`, RoBERTa's.
        position_initializer: `"normal"`, RoBERTa's, or `"sinusoidal"`. What the learned table of
            positions starts as. Defaults to `"normal"`.
        position_stddev: float. As `token_stddev`, of that table; of sinusoids, all of it. Defaults
            to `0.02`, RoBERTa's.
        dtype: optional dtype policy or its name.

    Input: `{"token_ids": int [B, T], "padding_mask": [B, T]}`, 1 = real; the mask may be left out
    where padding is `padding_token_id`. Output: `[B, T, D]`.

    Raises:
        ValueError: where `num_heads` does not divide the width, `padding_token_id` is not in the
            vocabulary, there is no such `position_initializer`, or a text is longer than
            `max_sequence_length`.

    Example:
    ```python
    backbone = d2v_tf.Data2VecTextBackbone(
        vocabulary_size=4096, max_sequence_length=128, num_layers=4, hidden_dim=128, num_heads=4,
        intermediate_dim=512,
    )
    backbone({"token_ids": np.array([[0, 31, 414, 2, 1, 1]])}).shape  # (1, 6, 128)
    ```
    """

    start_token_index = 0  # where `<s>` stands, at which KerasHub's classifiers look

    def __init__(
        self,
        vocabulary_size=50265,
        max_sequence_length=512,
        num_layers=12,
        hidden_dim=768,
        num_heads=12,
        intermediate_dim=3072,
        dropout=0.1,
        attention_dropout=0.1,
        layer_norm_epsilon=1e-5,
        activation="gelu",
        padding_token_id=1,
        token_stddev=0.02,
        position_initializer="normal",
        position_stddev=0.02,
        dtype=None,
        **kwargs,
    ):
        if hidden_dim % num_heads:
            raise ValueError(
                f"num_heads must divide hidden_dim. "
                f"Received: hidden_dim={hidden_dim}, num_heads={num_heads}"
            )
        if not 0 <= padding_token_id < vocabulary_size:
            raise ValueError(
                f"padding_token_id must be in the vocabulary. Received: "
                f"padding_token_id={padding_token_id}, vocabulary_size={vocabulary_size}"
            )

        if position_initializer not in POSITION_INITIALIZERS:
            raise ValueError(
                f"position_initializer must be one of {POSITION_INITIALIZERS}. "
                f"Received: {position_initializer!r}"
            )

        # === Layers ===
        frontend = TokenFrontend(
            vocabulary_size,
            hidden_dim,
            padding_token_id,
            token_stddev,
            dtype=dtype,
            name="frontend",
        )
        positions = LearnedPositions(
            max_sequence_length,
            layer_norm_epsilon,
            dropout=dropout,
            initializer=position_initializer,
            stddev=position_stddev,
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
            layer_norm_epsilon=layer_norm_epsilon,
            activation=activation,
            dtype=dtype,
            name="encoder",
        )

        # === Functional model ===
        super().__init__(
            inputs={
                "token_ids": keras.Input((None,), dtype="int32", name="token_ids"),
                "padding_mask": keras.Input((None,), dtype="int32", name="padding_mask"),
            },
            frontend=frontend,
            mask_token=None,
            positions=positions,
            encoder=encoder,
            dtype=dtype,
            **kwargs,
        )

        # === Config ===
        self.vocabulary_size = vocabulary_size
        self.max_sequence_length = max_sequence_length
        self.num_layers = num_layers
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.layer_norm_epsilon = layer_norm_epsilon
        self.activation = activation
        self.padding_token_id = padding_token_id
        self.token_stddev = token_stddev
        self.position_initializer = position_initializer
        self.position_stddev = position_stddev

    def complete_inputs(self, inputs):
        """The inputs with the padding mask, made from the tokens where it was left out."""
        # A functional model wants all of its inputs.
        if not isinstance(inputs, dict) or inputs.get("padding_mask") is not None:
            return inputs
        token_ids = inputs["token_ids"]
        if not keras.backend.is_keras_tensor(token_ids):
            token_ids = ops.convert_to_tensor(token_ids)  # Keras takes no mixture with arrays
        real = ops.not_equal(token_ids, self.padding_token_id)
        return {"token_ids": token_ids, "padding_mask": ops.cast(real, "int32")}

    def feature_padding_mask(self, inputs):
        """Which of the T tokens are real: bool `[B, T]`."""
        if inputs.get("padding_mask") is None:
            return ops.not_equal(inputs["token_ids"], self.padding_token_id)
        return ops.cast(inputs["padding_mask"], "bool")

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "max_sequence_length": self.max_sequence_length,
            "num_layers": self.num_layers,
            "hidden_dim": self.hidden_dim,
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "activation": self.activation,
            "padding_token_id": self.padding_token_id,
            "token_stddev": self.token_stddev,
            "position_initializer": self.position_initializer,
            "position_stddev": self.position_stddev,
        }
