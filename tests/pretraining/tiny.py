"""The smallest models and batches that the rule can be watched on."""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from d2v_tf.backbones.backbone import Data2VecBackbone, MaskToken
from d2v_tf.backbones.transformer import TransformerEncoder
from d2v_tf.backbones.vision import Data2VecVisionBackbone
from d2v_tf.pretraining.data2vec import Data2Vec
from tests.numpy_reference import randomize

# Unequal numbers of masked positions: 3, 1, 5 and 2 of 6.
MASK = np.array(
    [[1, 0, 1, 0, 0, 1], [0, 1, 0, 0, 0, 0], [1, 1, 1, 0, 1, 1], [0, 0, 0, 1, 1, 0]], dtype=bool
)
PADDING_MASK = np.arange(6) < np.array([[6], [4], [6], [5]])


def vision_backbone(**kwargs):
    return Data2VecVisionBackbone(
        **{
            "image_shape": (8, 12, 3),  # a grid of 2 x 3
            "patch_size": 4,
            "num_layers": 3,
            "hidden_dim": 8,
            "num_heads": 2,
            "intermediate_dim": 12,
            **kwargs,
        }
    )


def vision_model(backbone=None, seed=1, **kwargs):
    """A `Data2Vec` with random weights throughout, the teacher's unlike the student's."""
    model = Data2Vec(
        backbone or vision_backbone(),
        **{
            "num_target_layers": 2,
            "normalize_average": True,
            "loss_beta": 0.5,
            "ema": (0.9, 0.99, 10),
            **kwargs,
        },
    )
    randomize(model.weights, seed)
    return model


def vision_batch(seed=0):
    images = np.random.default_rng(seed).normal(size=(4, 8, 12, 3)).astype("float32")
    return {"images": tf.constant(images), "mask": tf.constant(MASK)}


def step(model, batch, optimizer=None):
    """One update, eagerly; returns the logs as floats."""
    if not model.compiled:
        model.compile(optimizer or keras.optimizers.SGD(0.1))
    return {name: float(value) for name, value in model.train_step(batch).items()}


class SequenceFrontend(keras.layers.Layer):
    """Embeds `tokens` `[B, T, F]`; stands for a waveform's or a text's frontend."""

    def __init__(self, dim, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(dim, dtype=self.dtype_policy)
        self.calls = 0

    def build(self, input_shape):
        self.dense.build(input_shape["tokens"])

    def call(self, inputs, training=None):
        self.calls += 1
        return {
            "features": self.dense(inputs["tokens"]),
            "padding_mask": ops.cast(inputs["padding_mask"], "bool"),
        }


class SequencePositions(keras.layers.Layer):
    """Adds a learned vector to each position and zeroes the padding: no prefix token."""

    def build(self, input_shape, *_):
        self.embedding = self.add_weight(name="embedding", shape=input_shape[1:])

    def call(self, x, padding_mask=None, training=None):
        x = x + ops.cast(self.embedding, x.dtype)
        return x if padding_mask is None else x * ops.cast(padding_mask, x.dtype)[..., None]


class NoPositions(keras.layers.Layer):
    """Zeroes the padding and nothing else: for sequences of any length."""

    def call(self, x, padding_mask=None, training=None):
        return x * ops.cast(padding_mask, x.dtype)[..., None]


def sequence_backbone(with_mask_token=True, positions="learned"):
    """A post-norm backbone with padding and no class token, made from the parts."""
    positions = {"learned": SequencePositions, "none": NoPositions}[positions]
    return Data2VecBackbone(
        inputs={
            "tokens": keras.Input((6, 5), name="tokens"),
            "padding_mask": keras.Input((6,), name="padding_mask", dtype="bool"),
        },
        frontend=SequenceFrontend(8, name="frontend"),
        mask_token=MaskToken("uniform", name="mask_token") if with_mask_token else None,
        positions=positions(name="positions"),
        encoder=TransformerEncoder(num_layers=3, num_heads=2, intermediate_dim=12, name="encoder"),
    )


def sequence_model(with_mask_token=True, seed=1, positions="learned", **kwargs):
    model = Data2Vec(
        sequence_backbone(with_mask_token, positions),
        **{
            "num_target_layers": 2,
            "target_norm": "instance",
            "ema": (0.9, 0.99, 10),
            **kwargs,
        },
    )
    randomize(model.weights, seed)
    return model


def sequence_batch(seed=0):
    tokens = np.random.default_rng(seed).normal(size=(4, 6, 5)).astype("float32")
    return {
        "tokens": tf.constant(tokens),
        "padding_mask": tf.constant(PADDING_MASK),
        "mask": tf.constant(MASK & PADDING_MASK),
    }
