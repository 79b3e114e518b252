"""Our vision backbone against Hugging Face's `Data2VecVisionModel`, weights random."""

import numpy as np
import pytest

from d2v_tf.backbones.relative_position import relative_position_index
from d2v_tf.backbones.vision import Data2VecVisionBackbone

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install transformers"
)

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


def huggingface_model(**kwargs):
    config = transformers.Data2VecVisionConfig(**{**COMMON, **kwargs}, attn_implementation="eager")
    model = transformers.Data2VecVisionModel(config, add_pooling_layer=False).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():  # no zero or one is left to hide a mistake
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return model


def our_backbone(config):
    bias = None
    if config.use_relative_position_bias:
        bias = "per_block"
    elif config.use_shared_relative_position_bias:
        bias = "shared"
    return Data2VecVisionBackbone(
        image_shape=(*config.image_size, config.num_channels),
        patch_size=config.patch_size,
        num_layers=config.num_hidden_layers,
        hidden_dim=config.hidden_size,
        num_heads=config.num_attention_heads,
        intermediate_dim=config.intermediate_size,
        layer_scale_init_value=config.layer_scale_init_value or None,
        layer_norm_epsilon=config.layer_norm_eps,
        activation=config.hidden_act,
        relative_position_bias=bias,
        absolute_position=config.use_absolute_position_embeddings,
        final_norm=not config.use_mean_pooling,
    )


def transfer(state, backbone):
    """Copies a Hugging Face state dict; every tensor must find its place."""
    state = {name: tensor.detach().numpy() for name, tensor in state.items()}

    def copy(variable, name, transform=np.transpose):
        variable.assign(transform(state.pop(name)))

    def copy_dense(layer, name):
        copy(layer.kernel, f"{name}.weight")
        copy(layer.bias, f"{name}.bias")

    def copy_norm(layer, name):
        copy(layer.gamma, f"{name}.weight")
        copy(layer.beta, f"{name}.bias")

    def same(x):
        return x

    patch, projection = backbone.frontend.patch_embedding, "embeddings.patch_embeddings.projection"
    copy(
        patch.kernel,
        f"{projection}.weight",
        lambda x: x.transpose(2, 3, 1, 0).reshape(patch.kernel.shape),
    )
    copy(patch.bias, f"{projection}.bias")
    copy(backbone.mask_token.embedding, "embeddings.mask_token", np.ravel)
    copy(backbone.positions.class_token, "embeddings.cls_token", same)
    if backbone.absolute_position:
        copy(backbone.positions.position_embedding, "embeddings.position_embeddings", same)
    table = "relative_position_bias.relative_position_bias_table"
    if backbone.relative_position_bias == "shared":
        copy(backbone.encoder.shared_bias.table, f"encoder.{table}", same)
    for i, block in enumerate(backbone.encoder.blocks):
        layer = f"encoder.layer.{i}"
        attention = f"{layer}.attention.attention"
        kernels = [state.pop(f"{attention}.{x}.weight").T for x in ("query", "key", "value")]
        block.attention.qkv_kernel.assign(np.concatenate(kernels, axis=1))
        copy(block.attention.query_bias, f"{attention}.query.bias")
        copy(block.attention.value_bias, f"{attention}.value.bias")
        if block.relative_position_bias is not None:
            copy(block.relative_position_bias.table, f"{attention}.{table}", same)
        copy_dense(block.attention.output_dense, f"{layer}.attention.output.dense")
        copy_norm(block.attention_norm, f"{layer}.layernorm_before")
        copy_norm(block.output_norm, f"{layer}.layernorm_after")
        copy_dense(block.intermediate_dense, f"{layer}.intermediate.dense")
        copy_dense(block.output_dense, f"{layer}.output.dense")
        if block.attention_scale is not None:
            copy(block.attention_scale.gamma, f"{layer}.lambda_1")
            copy(block.output_scale.gamma, f"{layer}.lambda_2")
    if backbone.final_norm is not None:
        copy_norm(backbone.final_norm, "layernorm")
    assert not state, f"not transferred: {sorted(state)}"


def assert_close(got, expected):
    expected = expected.detach().numpy()
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_and_every_block_equal_huggingface(name):
    theirs = huggingface_model(**CONFIGS[name])
    ours = our_backbone(theirs.config)
    transfer(theirs.state_dict(), ours)
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
    theirs = huggingface_model(
        use_absolute_position_embeddings=True, use_relative_position_bias=True
    )
    ours = our_backbone(theirs.config)
    transfer(theirs.state_dict(), ours)
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
