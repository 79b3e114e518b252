"""Backbones of odd shapes that every test of the package can afford."""

import numpy as np

import d2v_tf

COMMON = {"num_layers": 2, "hidden_dim": 12, "num_heads": 3, "intermediate_dim": 20}
VISION = {**COMMON, "image_shape": (12, 12, 3), "patch_size": 4}
SPEECH = {
    **COMMON,
    "conv_dims": (6, 7, 8),
    "conv_kernel_sizes": (10, 3, 2),
    "conv_strides": (5, 2, 2),
    "position_conv_layers": 3,
    "position_conv_kernel_size": 5,
    "position_conv_groups": 4,
}
TEXT = {**COMMON, "vocabulary_size": 30, "max_sequence_length": 10}

# Name: (class, arguments).
BACKBONES = {
    "vision_per_block": (d2v_tf.Data2VecVisionBackbone, VISION),
    "vision_shared_absolute_gray": (
        d2v_tf.Data2VecVisionBackbone,
        {
            **VISION,
            "image_shape": (15, 15, 1),
            "patch_size": 3,
            "relative_position_bias": "shared",
            "absolute_position": True,
            "layer_scale_init_value": None,
            "final_norm": False,
            "activation": "relu",
            "layer_norm_epsilon": 1e-3,
            "drop_path_rate": 0.3,
        },
    ),
    "vision_oblong_without_positions": (
        d2v_tf.Data2VecVisionBackbone,
        {**VISION, "image_shape": (8, 20, 3), "relative_position_bias": None, "num_layers": 1},
    ),
    "speech": (d2v_tf.Data2VecSpeechBackbone, {**SPEECH, "padding": "reference"}),
    "speech_biases_even_kernel": (
        d2v_tf.Data2VecSpeechBackbone,
        {
            **SPEECH,
            "conv_bias": True,
            "position_conv_kernel_size": 4,
            "position_conv_groups": 1,
            "padding": "reference",
            "activation": "silu",
            "layer_norm_epsilon": 1e-3,
            "dropout": 0.2,
            "layer_drop": 0.1,
            "activation_dropout": 0.3,
            "feature_dropout": 0.4,
            "attention_dropout": 0.15,
        },
    ),
    "speech_invariant": (
        d2v_tf.Data2VecSpeechBackbone,
        {**SPEECH, "padding": "invariant", "feature_grad_mult": 0.1},
    ),
    "text": (d2v_tf.Data2VecTextBackbone, TEXT),
    "text_other_padding": (
        d2v_tf.Data2VecTextBackbone,
        {**TEXT, "padding_token_id": 4, "activation": "tanh", "layer_norm_epsilon": 1e-3},
    ),
}


def make_backbone(name, **changes):
    """One of `BACKBONES`; no weight of it is a zero or a one that hides a mistake."""
    backbone_class, arguments = BACKBONES[name]
    backbone = backbone_class(**{**arguments, **changes})
    rng = np.random.default_rng(0)
    for weight in backbone.weights:
        noise = 0.3 * rng.normal(size=weight.shape)
        weight.assign(np.asarray(weight) + noise.astype("float32"))
    return backbone


def make_inputs(backbone):
    """A batch of two, the second one padded where the modality pads."""
    rng = np.random.default_rng(1)
    if isinstance(backbone, d2v_tf.Data2VecVisionBackbone):
        return rng.normal(size=(2, *backbone.image_shape)).astype("float32")
    if isinstance(backbone, d2v_tf.Data2VecSpeechBackbone):
        padding_mask = np.arange(500) < np.array([[500], [260]])
        waveform = rng.normal(size=(2, 500)).astype("float32") * padding_mask
        return {"waveform": waveform, "padding_mask": padding_mask.astype("int32")}
    padding = backbone.padding_token_id
    token_ids = np.array([[0, 9, 8, 17, 5, 22, 23, 2], [0, 9, 18, 2] + [padding] * 4])
    return {"token_ids": token_ids, "padding_mask": (token_ids != padding).astype("int32")}


def assert_same_backbone(got, expected):
    """Equal arguments, and weights equal to the bit."""
    config, other = got.get_config(), expected.get_config()
    config.pop("name"), other.pop("name")
    assert config == other
    for one, two in zip(got.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(two), one.path)
