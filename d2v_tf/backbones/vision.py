"""The vision backbone: a ViT as BEiT builds it."""

import keras
from keras import ops

from d2v_tf.backbones.backbone import Data2VecBackbone, MaskToken
from d2v_tf.backbones.compiled_parts import LayerNormalization
from d2v_tf.backbones.transformer import TransformerEncoder


class PatchFrontend(keras.layers.Layer):
    """Cuts images into patches and embeds each by one matrix product.

    Args:
        patch_size: int. Side of a patch in pixels.
        hidden_dim: int. Width D of the features.

    Call returns: `{"features": [B, T, D]}`, patches row by row; images have no padding mask.
    """

    def __init__(self, patch_size, hidden_dim, **kwargs):
        super().__init__(**kwargs)
        self.patch_size = patch_size
        self.hidden_dim = hidden_dim

    def build(self, input_shape):
        self.patch_embedding = keras.layers.Dense(
            self.hidden_dim,
            kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.02),
            dtype=self.dtype_policy,
            name="patch_embedding",
        )
        self.patch_embedding.build((None, None, self.patch_size**2 * input_shape[-1]))

    def call(self, images, training=None):
        # A stride-p convolution over p x p pixels is a matrix product over cut-out patches.
        height, width, channels = images.shape[1:]
        p = self.patch_size
        x = ops.reshape(images, (-1, height // p, p, width // p, p, channels))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        x = ops.reshape(x, (-1, (height // p) * (width // p), p * p * channels))
        return {"features": self.patch_embedding(x)}

    def get_config(self):
        return {
            **super().get_config(),
            "patch_size": self.patch_size,
            "hidden_dim": self.hidden_dim,
        }


class ClassTokenPositions(keras.layers.Layer):
    """Puts a learned class token in front and, if asked, adds learned absolute positions.

    Args:
        absolute_position: bool.
        dropout: float. Dropout rate of the result.

    Call: `[B, T, D]` -> `[B, 1 + T, D]`.
    """

    def __init__(self, absolute_position=False, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.absolute_position = absolute_position
        self.dropout_rate = dropout
        self.dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy)

    def build(self, input_shape, *_, **__):
        _, length, dim = input_shape
        initializer = keras.initializers.TruncatedNormal(stddev=0.02)
        self.class_token = self.add_weight(
            name="class_token", shape=(1, 1, dim), initializer=initializer
        )
        self.position_embedding = None
        if self.absolute_position:
            self.position_embedding = self.add_weight(
                name="position_embedding",
                shape=(1, 1 + length, dim),
                initializer=initializer.clone(),
            )

    def call(self, x, padding_mask=None, training=None):
        token = ops.cast(self.class_token, x.dtype)
        token = ops.broadcast_to(token, (ops.shape(x)[0], 1, x.shape[-1]))
        x = ops.concatenate([token, x], axis=1)  # [B, 1 + T, D]
        if self.position_embedding is not None:
            x = x + ops.cast(self.position_embedding, x.dtype)
        return self.dropout(x, training=training)

    def get_config(self):
        return {
            **super().get_config(),
            "absolute_position": self.absolute_position,
            "dropout": self.dropout_rate,
        }


@keras.saving.register_keras_serializable(package="d2v_tf")
class Data2VecVisionBackbone(Data2VecBackbone):
    """data2vec's image encoder: patches, class token, pre-norm blocks, relative positions.

    Equal to Hugging Face's `Data2VecVisionModel` (BEiT's ViT, arXiv 2106.08254) for the same
    weights.

    Args:
        image_shape: (int, int, int). Height, width and channels in pixels.
        patch_size: int. Side of a square patch in pixels; divides height and width.
        num_layers: int. Transformer blocks.
        hidden_dim: int. Width D.
        num_heads: int. Attention heads; divides `hidden_dim`.
        intermediate_dim: int. Width of the feed-forward networks.
        dropout: float. Dropout rate of embeddings and both branches of a block.
        attention_dropout: float. Dropout rate of the attention weights.
        drop_path_rate: float. Stochastic depth of the last block, linear in depth.
        layer_scale_init_value: optional float. `None` leaves layer scale out. Defaults to `1e-4`.
        layer_norm_epsilon: float. Defaults to `1e-6`.
        activation: str. Of the feed-forward networks. Defaults to `"gelu"`, the exact one.
        relative_position_bias: `"per_block"`, `"shared"` or `None`.
        absolute_position: bool. Learned absolute positions. Defaults to `False`.
        final_norm: bool. Layer norm after the last block. Defaults to `True`; published models
            that classify the mean of the patches have none there.
        dtype: optional dtype policy or its name.

    Input: `[B, H, W, C]` float, already normalised. Output: `[B, 1 + T, D]`, class token first.

    Raises:
        ValueError: where `patch_size` does not divide the image or `num_heads` the width.

    Example:
    ```python
    backbone = d2v_tf.Data2VecVisionBackbone(
        image_shape=(32, 32, 3), patch_size=4, num_layers=4, hidden_dim=128, num_heads=4,
        intermediate_dim=512,
    )
    backbone(np.zeros((2, 32, 32, 3), "float32")).shape  # (2, 65, 128)
    ```
    """

    def __init__(
        self,
        image_shape=(224, 224, 3),
        patch_size=16,
        num_layers=12,
        hidden_dim=768,
        num_heads=12,
        intermediate_dim=3072,
        dropout=0.0,
        attention_dropout=0.0,
        drop_path_rate=0.0,
        layer_scale_init_value=1e-4,
        layer_norm_epsilon=1e-6,
        activation="gelu",
        relative_position_bias="per_block",
        absolute_position=False,
        final_norm=True,
        dtype=None,
        **kwargs,
    ):
        image_shape = tuple(image_shape)
        if image_shape[0] % patch_size or image_shape[1] % patch_size:
            raise ValueError(
                f"patch_size must divide the image's height and width. "
                f"Received: image_shape={image_shape}, patch_size={patch_size}"
            )
        if hidden_dim % num_heads:
            raise ValueError(
                f"num_heads must divide hidden_dim. "
                f"Received: hidden_dim={hidden_dim}, num_heads={num_heads}"
            )
        grid = (image_shape[0] // patch_size, image_shape[1] // patch_size)

        # === Layers ===
        frontend = PatchFrontend(patch_size, hidden_dim, dtype=dtype, name="frontend")
        mask_token = MaskToken(
            keras.initializers.TruncatedNormal(stddev=0.02),
            dtype=dtype,
            name="mask_token",
        )
        positions = ClassTokenPositions(
            absolute_position, dropout=dropout, dtype=dtype, name="positions"
        )
        encoder = TransformerEncoder(
            num_layers=num_layers,
            num_heads=num_heads,
            intermediate_dim=intermediate_dim,
            normalize_first=True,
            dropout=dropout,
            attention_dropout=attention_dropout,
            drop_path_rate=drop_path_rate,
            layer_scale_init_value=layer_scale_init_value,
            layer_norm_epsilon=layer_norm_epsilon,
            activation=activation,
            key_bias=False,
            relative_position_bias=relative_position_bias,
            relative_position_grid=grid,
            dtype=dtype,
            name="encoder",
        )
        norm = None
        if final_norm:
            norm = LayerNormalization(epsilon=layer_norm_epsilon, dtype=dtype, name="final_norm")

        # === Functional model ===
        super().__init__(
            inputs=keras.Input(image_shape, name="images"),
            frontend=frontend,
            mask_token=mask_token,
            positions=positions,
            encoder=encoder,
            final_norm=norm,
            num_prefix_tokens=1,
            dtype=dtype,
            **kwargs,
        )

        # === Config ===
        self.image_shape = image_shape
        self.patch_size = patch_size
        self.num_layers = num_layers
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.drop_path_rate = drop_path_rate
        self.layer_scale_init_value = layer_scale_init_value
        self.layer_norm_epsilon = layer_norm_epsilon
        self.activation = activation
        self.relative_position_bias = relative_position_bias
        self.absolute_position = absolute_position

    @property
    def grid(self):
        """(int, int). Patches per column and per row."""
        height, width, _ = self.image_shape
        return height // self.patch_size, width // self.patch_size

    def get_config(self):
        return {
            **super().get_config(),
            "image_shape": self.image_shape,
            "patch_size": self.patch_size,
            "num_layers": self.num_layers,
            "hidden_dim": self.hidden_dim,
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "drop_path_rate": self.drop_path_rate,
            "layer_scale_init_value": self.layer_scale_init_value,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "activation": self.activation,
            "relative_position_bias": self.relative_position_bias,
            "absolute_position": self.absolute_position,
            "final_norm": self.final_norm is not None,
        }
