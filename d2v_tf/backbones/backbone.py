"""What every data2vec backbone is: a frontend, a mask token, positions, and the encoder."""

import keras
import keras_hub
from keras import ops


class MaskToken(keras.layers.Layer):
    """Replaces the features at masked positions by one learned vector.

    Called without a mask it gives its input back: a backbone in use hides nothing.

    Args:
        initializer: initializer of the vector.
    """

    def __init__(self, initializer="zeros", **kwargs):
        super().__init__(**kwargs)
        self.initializer = keras.initializers.get(initializer)

    def build(self, input_shape, *_, **__):
        self.embedding = self.add_weight(
            name="embedding", shape=(input_shape[-1],), initializer=self.initializer
        )

    def call(self, x, mask=None):
        """`x` is `[B, T, D]`, `mask` bool `[B, T]`, True = hidden."""
        if mask is None:
            return x
        return ops.where(mask[..., None], ops.cast(self.embedding, x.dtype), x)

    def get_config(self):
        return {
            **super().get_config(),
            "initializer": keras.initializers.serialize(self.initializer),
        }


class Data2VecBackbone(keras_hub.models.Backbone):
    """Frontend, mask token, positions and Transformer encoder as one functional model.

    The subclasses build the four parts for their modality; pre-training calls the parts one by
    one, everybody else calls the model.

    Args:
        inputs: a `keras.Input` or a dict of them.
        frontend: layer, inputs -> a dict of `"features"` `[B, T, D]` and, where there is padding,
            `"padding_mask"` `[B, T]`, 1 = real. What student and teacher share and what is
            evaluated once a step.
        mask_token: `MaskToken`, or `None` where the input itself carries the mask.
        positions: layer, (features, padding mask) -> `[B, P + T, D]`, the encoder's input, with P
            prefix tokens (a class token) in front. Applied after masking.
        encoder: `TransformerEncoder`.
        final_norm: layer applied to the last block's output, or `None`.
        num_prefix_tokens: int. P.

    Attributes of the same names are what `d2v_tf.Data2Vec` works with.
    """

    def __init__(
        self,
        inputs,
        frontend,
        mask_token,
        positions,
        encoder,
        final_norm=None,
        num_prefix_tokens=0,
        **kwargs,
    ):
        embedded = frontend(inputs)
        features, padding_mask = embedded["features"], embedded.get("padding_mask")
        if mask_token is not None:
            features = mask_token(features)
        outputs = encoder(positions(features, padding_mask), padding_mask)
        if final_norm is not None:
            outputs = final_norm(outputs)
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self.frontend = frontend
        self.mask_token = mask_token
        self.positions = positions
        self.encoder = encoder
        self.final_norm = final_norm
        self.num_prefix_tokens = num_prefix_tokens

    def __call__(self, inputs, *args, **kwargs):
        return super().__call__(self.complete_inputs(inputs), *args, **kwargs)

    def complete_inputs(self, inputs):
        """The inputs with what may be left out: what a functional model around this is called with.

        Args:
            inputs: what the backbone is called with.
        """
        return inputs

    @property
    def input_names(self):
        """Names of the inputs; a backbone of one input is called with the bare tensor."""
        return [tensor.name for tensor in self.inputs]

    def feature_padding_mask(self, inputs):
        """Which of the T positions of the output are real, prefix tokens left out.

        Args:
            inputs: what the backbone is called with.

        Returns:
            bool `[B, T]`, True = real, or `None` where all of them are.
        """
        return None

    def block_features(self, inputs, kind="ffn", training=False):
        """Features of every block, for targets, probes and pictures.

        Args:
            inputs: what the backbone is called with.
            kind: `"ffn"`, the feed-forward output before the block's last residual connection, or
                `"block"`, the block's output.
            training: bool. Whether dropout is active.

        Returns:
            A list of one `[B, P + T, D]` a block, first block first.

        Raises:
            ValueError: for another kind.
        """
        embedded = self.frontend(inputs, training=training)
        padding_mask = embedded.get("padding_mask")
        features = self.positions(embedded["features"], padding_mask, training=training)
        return self.encoder(features, padding_mask, training=training, features=kind)[1]

    def attention_weights(self, inputs):
        """How much each position of each block attends to each other, for pictures.

        Args:
            inputs: what the backbone is called with.

        Returns:
            A list of one float32 `[B, H, P + T, P + T]` a block, first block first; a row is what a
            position attends to, and sums to 1.
        """
        weights = []

        def note(block, x, logit_bias, **arguments):
            weights.append(block.attention_weights(x, logit_bias))
            return block(x, logit_bias=logit_bias, **arguments)

        embedded = self.frontend(inputs, training=False)
        padding_mask = embedded.get("padding_mask")
        features = self.positions(embedded["features"], padding_mask, training=False)
        self.encoder(features, padding_mask, training=False, run_block=note)
        return weights
