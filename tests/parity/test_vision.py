"""Our vision backbone against Hugging Face's `Data2VecVisionModel`, weights random."""

import numpy as np
import pytest

from d2v_tf.backbones.relative_position import relative_position_index
from tests.parity.models import assert_close, backbone_of, perturbed, torch, transformers

COMMON = {
    "image_size": [12, 12],
    "patch_size": 4,
    "num_channels": 3,
    "num_hidden_layers": 3,
    "hidden_size": 12,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "layer_norm_eps": 1e-6,
    "layer_scale_init_value": 0.1,
    "use_relative_position_bias": False,
    "use_shared_relative_position_bias": False,
    "use_absolute_position_embeddings": False,
    "use_mean_pooling": False,
    "use_mask_token": True,
}
CONFIGS = {
    "per_block": {"use_relative_position_bias": True},
    "per_block_mean_pooled": {"use_relative_position_bias": True, "use_mean_pooling": True},
    "per_block_without_layer_scale": {
        "use_relative_position_bias": True,
        "layer_scale_init_value": 0.0,
        "num_attention_heads": 1,
    },
    "shared": {"use_shared_relative_position_bias": True, "hidden_act": "relu"},
    "shared_and_absolute": {
        "use_shared_relative_position_bias": True,
        "use_absolute_position_embeddings": True,
        "patch_size": 3,
        "num_hidden_layers": 1,
        "use_mean_pooling": True,
    },
    "absolute": {
        "use_absolute_position_embeddings": True,
        "num_channels": 1,
        "layer_norm_eps": 1e-3,
    },
    # Hugging Face refuses absolute positions on a grid that is not square, and resamples its bias
    # table (it reads it as width by height): compared without either, and its index below.
    "no_positions_oblong": {"image_size": [20, 8], "num_attention_heads": 6},
}


def make_pair(**kwargs):
    config = transformers.Data2VecVisionConfig(**{**COMMON, **kwargs}, attn_implementation="eager")
    theirs = perturbed(transformers.Data2VecVisionModel(config, add_pooling_layer=False))
    return theirs, backbone_of(theirs)


@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_and_every_block_equal_huggingface(name):
    theirs, ours = make_pair(**CONFIGS[name])
    images = np.random.default_rng(0).normal(size=(2, *ours.image_shape)).astype("float32")
    feed_forward = []
    for layer in theirs.encoder.layer:
        layer.output.register_forward_hook(lambda module, args, out: feed_forward.append(out))
    with torch.no_grad():
        outputs = theirs(torch.tensor(images.transpose(0, 3, 1, 2)), output_hidden_states=True)
    assert_close(ours(images), outputs.last_hidden_state)
    hidden = outputs.hidden_states[1:]  # the first are the embeddings
    for got, expected in zip(ours.block_features(images, "block"), hidden, strict=True):
        assert_close(got, expected)
    for got, expected in zip(ours.block_features(images, "ffn"), feed_forward, strict=True):
        assert_close(got, expected)


def test_masked_input_equals_huggingface():
    theirs, ours = make_pair(use_absolute_position_embeddings=True, use_relative_position_bias=True)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 12, 12, 3)).astype("float32")
    mask = rng.random((2, 9)) < 0.5
    with torch.no_grad():
        expected = theirs(
            torch.tensor(images.transpose(0, 3, 1, 2)), bool_masked_pos=torch.tensor(mask)
        ).last_hidden_state
    features = ours.mask_token(ours.frontend(images)["features"], mask)
    assert_close(ours.final_norm(ours.encoder(ours.positions(features))), expected)


@pytest.mark.parametrize("grid", [(3, 3), (2, 5), (5, 2), (1, 4)])
def test_relative_position_index_equals_huggingface(grid):
    bias = transformers.models.data2vec.modeling_data2vec_vision.Data2VecVisionRelativePositionBias
    expected = bias.generate_relative_position_index(grid).numpy()
    np.testing.assert_array_equal(relative_position_index(*grid), expected)
