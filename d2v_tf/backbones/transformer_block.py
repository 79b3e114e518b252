"""One block of the Transformer encoder."""

import functools

import keras

from d2v_tf.backbones.compiled_parts import LayerNormalization, rowwise
from d2v_tf.backbones.initializers import TruncatedNormal
from d2v_tf.backbones.relative_position import RelativePositionBias
from d2v_tf.backbones.self_attention import SelfAttention


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
        # One that is not Keras' own may have weights.
        known = self.activation in vars(keras.activations).values()
        self._activate = functools.partial(rowwise, self.activation) if known else self.activation
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
        self.attention_norm = LayerNormalization(name="attention_norm", **norm)
        self.intermediate_dense = keras.layers.Dense(
            self.intermediate_dim,
            kernel_initializer=kernel.clone(),
            name="intermediate_dense",
            **common,
        )
        self.output_dense = keras.layers.Dense(
            dim, kernel_initializer=residual_kernel.clone(), name="output_dense", **common
        )
        self.output_norm = LayerNormalization(name="output_norm", **norm)
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

    def call(self, x, logit_bias=None, training=None, keep=None):
        """Returns the block's output and its feed-forward output, both `[B, T, D]`.

        The feed-forward output is the network's own, before layer scale and the residual
        connection: a normalised target would lose a branch scaled by 1e-4 in its epsilon.

        `keep` is an optional function `[B, T, D]` -> `[B, M, D]` that picks the positions that are
        wanted: attention sees all, what follows is computed for those only.
        """
        keep = keep or (lambda x: x)
        logit_bias = self._with_own_bias(logit_bias)
        if self.normalize_first:
            x = x + self._branch(
                self.attention(self.attention_norm(x), logit_bias, training=training),
                self.attention_scale,
                training,
            )
            x = keep(x)
            feed_forward = self._feed_forward(self.output_norm(x), training)
            x = x + self._branch(feed_forward, self.output_scale, training)
            return x, feed_forward
        attended = self.attention(x, logit_bias, training=training)
        x = keep(x + self._branch(attended, self.attention_scale, training))
        x = self.attention_norm(x)
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
        x = self._activate(self.intermediate_dense(x))  # [B, T, intermediate_dim]
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
