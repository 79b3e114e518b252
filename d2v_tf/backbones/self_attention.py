"""Attention of every position to all."""

import keras
from keras import ops


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
