"""The one Transformer encoder of all modalities."""

import keras
from keras import ops

from d2v_tf.backbones.relative_position import RelativePositionBias
from d2v_tf.backbones.transformer_block import TransformerBlock

RELATIVE_POSITION_BIASES = (None, "per_block", "shared")
FEATURE_KINDS = ("ffn", "block")


class TransformerEncoder(keras.layers.Layer):
    """A stack of Transformer blocks that can give every block's features back.

    Args:
        num_layers: int. Number of blocks.
        num_heads: int. Attention heads; divides the width of the input.
        intermediate_dim: int. Width of the feed-forward network.
        normalize_first: bool. Layer norm before attention and feed-forward (ViT) instead of after
            each residual connection (BERT). Defaults to `False`.
        dropout: float. Dropout rate at the end of both branches.
        attention_dropout: float. Dropout rate of the attention weights.
        activation_dropout: float. Dropout rate inside the feed-forward network.
        drop_path_rate: float. Stochastic depth of the last block; it rises linearly from 0 at
            the first.
        layer_drop: float in [0, 1). Rate at which a block is left out of a training step, for all
            examples at once (arXiv 1909.11556); nothing is rescaled. Its features are computed
            all the same: `"block"` then is its input, `"ffn"` what it would have added.
        layer_scale_init_value: optional float. Learned scale of both branches; `None` leaves it
            out.
        layer_norm_epsilon: float.
        activation: str or callable of the feed-forward network.
        key_bias: bool. Whether the attention keys have a bias.
        relative_position_bias: `None`, `"per_block"` or `"shared"` (one table for all blocks).
        relative_position_grid: (int, int). The grid of patches, with a relative position bias; the
            sequence then is one class token and the patches row by row.

    Raises:
        ValueError: for a relative position bias of another kind, or without a grid.
    """

    def __init__(
        self,
        num_layers,
        num_heads,
        intermediate_dim,
        normalize_first=False,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        drop_path_rate=0.0,
        layer_drop=0.0,
        layer_scale_init_value=None,
        layer_norm_epsilon=1e-5,
        activation="gelu",
        key_bias=True,
        relative_position_bias=None,
        relative_position_grid=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if relative_position_bias not in RELATIVE_POSITION_BIASES:
            raise ValueError(
                f"relative_position_bias must be one of {RELATIVE_POSITION_BIASES}. "
                f"Received: {relative_position_bias!r}"
            )
        if relative_position_bias and relative_position_grid is None:
            raise ValueError("relative_position_bias needs relative_position_grid=(height, width).")
        if not 0 <= layer_drop < 1:
            raise ValueError(f"layer_drop must be at least 0 and below 1. Received: {layer_drop}")
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.normalize_first = normalize_first
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.activation_dropout = activation_dropout
        self.drop_path_rate = drop_path_rate
        self.layer_drop = layer_drop
        self.layer_scale_init_value = layer_scale_init_value
        self.layer_norm_epsilon = layer_norm_epsilon
        self.activation = keras.activations.get(activation)
        self.key_bias = key_bias
        self.relative_position_bias = relative_position_bias
        self.relative_position_grid = relative_position_grid
        self.blocks = [
            TransformerBlock(
                num_heads,
                intermediate_dim,
                depth=i + 1,
                normalize_first=normalize_first,
                dropout=dropout,
                attention_dropout=attention_dropout,
                activation_dropout=activation_dropout,
                drop_path_rate=drop_path_rate * i / max(num_layers - 1, 1),
                layer_scale_init_value=layer_scale_init_value,
                layer_norm_epsilon=layer_norm_epsilon,
                activation=activation,
                key_bias=key_bias,
                relative_position_grid=(
                    relative_position_grid if relative_position_bias == "per_block" else None
                ),
                dtype=self.dtype_policy,
                name=f"block_{i}",
            )
            for i in range(num_layers)
        ]
        self.block_dropout = keras.layers.Dropout(layer_drop, dtype="float32")
        self.shared_bias = None
        if relative_position_bias == "shared":
            self.shared_bias = RelativePositionBias(
                relative_position_grid,
                num_heads,
                dtype=self.dtype_policy,
                name="relative_position_bias",
            )

    def build(self, input_shape, *_, **__):
        if input_shape[-1] % self.num_heads:
            raise ValueError(
                f"num_heads must divide the width. Received: width {input_shape[-1]}, "
                f"num_heads={self.num_heads}"
            )
        for block in self.blocks:
            block.build(input_shape)
        if self.shared_bias is not None:
            self.shared_bias.build()

    def call(self, x, padding_mask=None, training=None, features=None, run_block=None, keep=None):
        """Encodes `x`.

        Args:
            x: `[B, T, D]`.
            padding_mask: optional `[B, T]`, 1 = real. Padding is not attended to.
            features: `None`, `"ffn"` or `"block"`.
            run_block: optional function that calls a block for `call`, with the block and its
                arguments, such as one that keeps less for the gradient.
            keep: optional function `[B, T, D]` -> `[B, M, D]` that picks the positions wanted of
                the last block, which then is computed no further for the others.

        Returns:
            `[B, T, D]`, or `[B, M, D]` with `keep`; with `features`, also a list of one `[B, T, D]`
            a block, first block first: the feed-forward outputs or the blocks' outputs, with `keep`
            the last one `[B, M, D]`.

        Raises:
            ValueError: for another kind of features.
        """
        if features is not None and features not in FEATURE_KINDS:
            raise ValueError(f"features must be one of {FEATURE_KINDS}. Received: {features!r}")
        logit_bias = None
        if self.shared_bias is not None:
            logit_bias = self.shared_bias.bias()  # [H, T, T]
        if padding_mask is not None:
            hidden = ops.logical_not(ops.cast(padding_mask, "bool"))[:, None, None, :]
            hidden = ops.cast(hidden, "float32") * -1e9
            logit_bias = hidden if logit_bias is None else logit_bias + hidden
        kept = None
        if self.layer_drop and training:
            kept = self.block_dropout(ops.ones((self.num_layers,)), training=True) > 0
        collected = []
        run_block = run_block or TransformerBlock.__call__
        for i, block in enumerate(self.blocks):
            before, picked = x, keep if i + 1 == len(self.blocks) else None
            x, feed_forward = run_block(
                block, x, logit_bias=logit_bias, training=training, keep=picked
            )
            if kept is not None:  # computed and thrown away: the step's graph stays one and static
                x = ops.where(kept[i], x, before if picked is None else picked(before))
            collected.append(feed_forward if features == "ffn" else x)
        return x if features is None else (x, collected)

    def compute_output_shape(self, input_shape, *_, **__):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "normalize_first": self.normalize_first,
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "activation_dropout": self.activation_dropout,
            "drop_path_rate": self.drop_path_rate,
            "layer_drop": self.layer_drop,
            "layer_scale_init_value": self.layer_scale_init_value,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "activation": keras.activations.serialize(self.activation),
            "key_bias": self.key_bias,
            "relative_position_bias": self.relative_position_bias,
            "relative_position_grid": self.relative_position_grid,
        }
