"""The one Transformer encoder of all modalities."""

import keras
from keras import ops

from d2v_tf.backbones.initializers import TruncatedNormal
from d2v_tf.backbones.relative_position import RelativePositionBias

RELATIVE_POSITION_BIASES = (None, "per_block", "shared")
FEATURE_KINDS = ("ffn", "block")


class SelfAttention(keras.layers.Layer):
    """Multi-head self-attention whose query, key and value come from one matrix product.

    The softmax is computed in float32 whatever the compute dtype is.

    Args:
        num_heads: int. Divides the width.
        dropout: float. Dropout rate of the attention weights.
        key_bias: bool. A bias of the keys shifts all logits of a query alike, which softmax
            ignores; BEiT has none, BERT and wav2vec have one.
        kernel_initializer, output_initializer: initializers of the two matrices.
    """

    def __init__(
        self,
        num_heads,
        dropout=0.0,
        key_bias=True,
        kernel_initializer="glorot_uniform",
        output_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)  # the logit bias stays float32
        self.num_heads = num_heads
        self.dropout = dropout
        self.key_bias = key_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.output_initializer = keras.initializers.get(output_initializer)
        self.attention_dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy)

    def build(self, input_shape, *_, **__):
        dim = input_shape[-1]
        self.head_dim = dim // self.num_heads
        self.qkv_kernel = self.add_weight(
            name="qkv_kernel", shape=(dim, 3 * dim), initializer=self.kernel_initializer
        )
        self.query_bias = self.add_weight(name="query_bias", shape=(dim,), initializer="zeros")
        if self.key_bias:
            self.key_bias_weight = self.add_weight(
                name="key_bias", shape=(dim,), initializer="zeros"
            )
        self.value_bias = self.add_weight(name="value_bias", shape=(dim,), initializer="zeros")
        self.output_dense = keras.layers.Dense(
            dim,
            kernel_initializer=self.output_initializer,
            dtype=self.dtype_policy,
            name="output_dense",
        )
        self.output_dense.build(input_shape)

    def call(self, x, logit_bias=None, training=None):
        """`x` is `[B, T, D]`; `logit_bias` broadcasts to the logits, `[B, H, T, T]`."""
        length, dim = ops.shape(x)[1], self.num_heads * self.head_dim
        query, key, value = self._query_key_value(x)
        weights = ops.cast(self._weights(query, key, logit_bias), x.dtype)
        weights = self.attention_dropout(weights, training=training)
        x = ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3))  # [B, T, H, D / H]
        return self.output_dense(ops.reshape(x, (-1, length, dim)))

    def weights_of(self, x, logit_bias=None):
        """How much each position attends to each, float32 `[B, H, T, T]`; without dropout."""
        query, key, _ = self._query_key_value(x)
        return self._weights(query, key, logit_bias)

    def _query_key_value(self, x):
        length = ops.shape(x)[1]
        key_bias = self.key_bias_weight if self.key_bias else ops.zeros_like(self.query_bias)
        bias = ops.concatenate([self.query_bias, key_bias, self.value_bias])
        qkv = ops.matmul(x, ops.cast(self.qkv_kernel, x.dtype))  # [B, T, 3 * D]
        qkv = qkv + ops.cast(bias, x.dtype)
        qkv = ops.reshape(qkv, (-1, length, 3, self.num_heads, self.head_dim))
        query, key, value = ops.unstack(ops.transpose(qkv, (2, 0, 3, 1, 4)), 3)  # [B, H, T, D / H]
        return query * self.head_dim**-0.5, key, value

    def _weights(self, query, key, logit_bias):
        logits = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))  # [B, H, T, T]
        logits = ops.cast(logits, "float32")
        if logit_bias is not None:
            logits = logits + logit_bias
        return ops.softmax(logits)

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "dropout": self.dropout,
            "key_bias": self.key_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "output_initializer": keras.initializers.serialize(self.output_initializer),
        }


class LayerScale(keras.layers.Layer):
    """Scales each channel of a residual branch by a learned weight (arXiv 2103.17239).

    Args:
        init_value: float. What every weight starts from.
    """

    def __init__(self, init_value, **kwargs):
        super().__init__(**kwargs)
        self.init_value = init_value

    def build(self, input_shape):
        self.gamma = self.add_weight(
            name="gamma",
            shape=(input_shape[-1],),
            initializer=keras.initializers.Constant(self.init_value),
        )

    def call(self, x):
        return x * self.gamma

    def get_config(self):
        return {**super().get_config(), "init_value": self.init_value}


class TransformerBlock(keras.layers.Layer):
    """Self-attention and a feed-forward network, each with a residual connection.

    Args: as `TransformerEncoder`, for one block; `depth` is the block's number from 1 on.
    """

    def __init__(
        self,
        num_heads,
        intermediate_dim,
        depth=1,
        normalize_first=False,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        drop_path_rate=0.0,
        layer_scale_init_value=None,
        layer_norm_epsilon=1e-5,
        activation="gelu",
        key_bias=True,
        relative_position_grid=None,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)  # the logit bias stays float32
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.depth = depth
        self.normalize_first = normalize_first
        self.dropout_rate = dropout
        self.attention_dropout_rate = attention_dropout
        self.activation_dropout_rate = activation_dropout
        self.drop_path_rate = drop_path_rate
        self.layer_scale_init_value = layer_scale_init_value
        self.layer_norm_epsilon = layer_norm_epsilon
        self.activation = keras.activations.get(activation)
        self.key_bias = key_bias
        self.relative_position_grid = relative_position_grid

    def build(self, input_shape, *_, **__):
        dim = input_shape[-1]
        kernel = TruncatedNormal(stddev=0.02)
        # BEiT shrinks what a pre-norm block adds to the residual stream with its depth; the sum
        # over all blocks then keeps the size of one.
        shrink = (2 * self.depth) ** -0.5 if self.normalize_first else 1.0
        residual_kernel = TruncatedNormal(stddev=0.02 * shrink)
        common = {"dtype": self.dtype_policy}
        norm = {"epsilon": self.layer_norm_epsilon, **common}

        self.attention = SelfAttention(
            self.num_heads,
            dropout=self.attention_dropout_rate,
            key_bias=self.key_bias,
            kernel_initializer=kernel.clone(),
            output_initializer=residual_kernel.clone(),
            name="attention",
            **common,
        )
        self.attention_norm = keras.layers.LayerNormalization(name="attention_norm", **norm)
        self.intermediate_dense = keras.layers.Dense(
            self.intermediate_dim,
            kernel_initializer=kernel.clone(),
            name="intermediate_dense",
            **common,
        )
        self.output_dense = keras.layers.Dense(
            dim, kernel_initializer=residual_kernel.clone(), name="output_dense", **common
        )
        self.output_norm = keras.layers.LayerNormalization(name="output_norm", **norm)
        self.dropout = keras.layers.Dropout(self.dropout_rate, **common)
        self.activation_dropout = keras.layers.Dropout(self.activation_dropout_rate, **common)
        # Stochastic depth (arXiv 1603.09382): dropout of whole examples' branches.
        self.stochastic_depth = keras.layers.Dropout(
            self.drop_path_rate, noise_shape=(None, 1, 1), **common
        )
        self.attention_scale = self.output_scale = self.relative_position_bias = None
        if self.layer_scale_init_value is not None:
            self.attention_scale = LayerScale(
                self.layer_scale_init_value, name="attention_scale", **common
            )
            self.output_scale = LayerScale(
                self.layer_scale_init_value, name="output_scale", **common
            )
            self.attention_scale.build(input_shape)
            self.output_scale.build(input_shape)
        if self.relative_position_grid is not None:
            self.relative_position_bias = RelativePositionBias(
                self.relative_position_grid, self.num_heads, name="relative_position_bias", **common
            )
            self.relative_position_bias.build()
        self.attention.build(input_shape)
        self.attention_norm.build(input_shape)
        self.intermediate_dense.build(input_shape)
        self.output_dense.build((*input_shape[:-1], self.intermediate_dim))
        self.output_norm.build(input_shape)

    def call(self, x, logit_bias=None, training=None):
        """Returns the block's output and its feed-forward output, both `[B, T, D]`.

        The feed-forward output is the network's own, before layer scale and the residual
        connection: a normalised target would lose a branch scaled by 1e-4 in its epsilon.
        """
        logit_bias = self._with_own_bias(logit_bias)
        if self.normalize_first:
            x = x + self._branch(
                self.attention(self.attention_norm(x), logit_bias, training=training),
                self.attention_scale,
                training,
            )
            feed_forward = self._feed_forward(self.output_norm(x), training)
            x = x + self._branch(feed_forward, self.output_scale, training)
            return x, feed_forward
        attended = self.attention(x, logit_bias, training=training)
        x = self.attention_norm(x + self._branch(attended, self.attention_scale, training))
        feed_forward = self._feed_forward(x, training)
        x = self.output_norm(x + self._branch(feed_forward, self.output_scale, training))
        return x, feed_forward

    def attention_weights(self, x, logit_bias=None):
        """How much each position attends to each in this block, float32 `[B, H, T, T]`."""
        if self.normalize_first:
            x = self.attention_norm(x)
        return self.attention.weights_of(x, self._with_own_bias(logit_bias))

    def _with_own_bias(self, logit_bias):
        if self.relative_position_bias is None:
            return logit_bias
        own = self.relative_position_bias.bias()  # [H, T, T]
        return own if logit_bias is None else logit_bias + own

    def _feed_forward(self, x, training):
        x = self.activation(self.intermediate_dense(x))  # [B, T, intermediate_dim]
        x = self.activation_dropout(x, training=training)
        return self.output_dense(x)

    def _branch(self, x, scale, training):
        x = self.dropout(x, training=training)
        if scale is not None:
            x = scale(x)
        return self.stochastic_depth(x, training=training)

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "depth": self.depth,
            "normalize_first": self.normalize_first,
            "dropout": self.dropout_rate,
            "attention_dropout": self.attention_dropout_rate,
            "activation_dropout": self.activation_dropout_rate,
            "drop_path_rate": self.drop_path_rate,
            "layer_scale_init_value": self.layer_scale_init_value,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "activation": keras.activations.serialize(self.activation),
            "key_bias": self.key_bias,
            "relative_position_grid": self.relative_position_grid,
        }


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

    def call(self, x, padding_mask=None, training=None, features=None, run_block=None):
        """Encodes `x`.

        Args:
            x: `[B, T, D]`.
            padding_mask: optional `[B, T]`, 1 = real. Padding is not attended to.
            features: `None`, `"ffn"` or `"block"`.
            run_block: optional function that calls a block for `call`, with the block and its
                arguments, such as one that keeps less for the gradient.

        Returns:
            `[B, T, D]`; with `features`, also a list of one `[B, T, D]` a block, first block first:
            the feed-forward outputs or the blocks' outputs.

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
        for i, block in enumerate(self.blocks):
            before = x
            if run_block is None:
                x, feed_forward = block(x, logit_bias=logit_bias, training=training)
            else:
                x, feed_forward = run_block(block, x, logit_bias, training)
            if kept is not None:  # computed and thrown away: the step's graph stays one and static
                x = ops.where(kept[i], x, before)
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
