"""Our speech backbone against Hugging Face's `Data2VecAudioModel`, stage by stage."""

import numpy as np
import pytest

from d2v_tf.backbones.speech import Data2VecSpeechBackbone

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install transformers"
)

COMMON = {
    "num_hidden_layers": 3,
    "hidden_size": 12,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "conv_dim": (6, 7, 8),
    "conv_kernel": (10, 3, 2),
    "conv_stride": (5, 2, 2),
    "num_feat_extract_layers": 3,
    "conv_bias": True,
    "num_conv_pos_embeddings": 3,
    "conv_pos_kernel_size": 5,
    "num_conv_pos_embedding_groups": 4,
    "layer_norm_eps": 1e-3,  # not that of the norms between convolutions
}
CONFIGS = {
    "small": {},
    "published_shape": {
        "conv_dim": (8,) * 7,
        "conv_kernel": (10, 3, 3, 3, 3, 2, 2),
        "conv_stride": (5, 2, 2, 2, 2, 2, 2),
        "num_feat_extract_layers": 7,
        "conv_bias": False,
        "num_conv_pos_embeddings": 5,
        "conv_pos_kernel_size": 19,
        "num_conv_pos_embedding_groups": 16,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "layer_norm_eps": 1e-5,
    },
    "even_kernel": {"conv_pos_kernel_size": 4, "num_conv_pos_embedding_groups": 1},
    "relu_one_block": {"hidden_act": "relu", "num_hidden_layers": 1, "conv_dim": (5, 5, 5)},
}


def huggingface_model(**kwargs):
    config = transformers.Data2VecAudioConfig(**{**COMMON, **kwargs}, attn_implementation="eager")
    model = transformers.Data2VecAudioModel(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():  # no zero or one is left to hide a mistake
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return model


def our_backbone(config, padding="reference"):
    return Data2VecSpeechBackbone(
        num_layers=config.num_hidden_layers,
        hidden_dim=config.hidden_size,
        num_heads=config.num_attention_heads,
        intermediate_dim=config.intermediate_size,
        conv_dims=config.conv_dim,
        conv_kernel_sizes=config.conv_kernel,
        conv_strides=config.conv_stride,
        conv_bias=config.conv_bias,
        position_conv_layers=config.num_conv_pos_embeddings,
        position_conv_kernel_size=config.conv_pos_kernel_size,
        position_conv_groups=config.num_conv_pos_embedding_groups,
        layer_norm_epsilon=config.layer_norm_eps,
        activation=config.hidden_act,
        padding=padding,
    )


def transfer(state, backbone):
    """Copies a Hugging Face state dict; every tensor must find its place."""
    state = {name: tensor.detach().numpy() for name, tensor in state.items()}

    def copy(variable, name):
        # Transposed, PyTorch's [out, in, kernel] is Keras' [kernel, in, out].
        variable.assign(np.transpose(state.pop(name)))

    def copy_dense(layer, name):
        copy(layer.kernel, f"{name}.weight")
        copy(layer.bias, f"{name}.bias")

    def copy_norm(layer, name):
        copy(layer.gamma, f"{name}.weight")
        copy(layer.beta, f"{name}.bias")

    frontend, positions = backbone.frontend, backbone.positions
    for i, (conv, norm) in enumerate(zip(frontend.convs, frontend.conv_norms, strict=True)):
        layer = f"feature_extractor.conv_layers.{i}"
        copy(conv.kernel, f"{layer}.conv.weight")
        if conv.bias is not None:
            copy(conv.bias, f"{layer}.conv.bias")
        copy_norm(norm, f"{layer}.layer_norm")
    copy_norm(frontend.feature_norm, "feature_projection.layer_norm")
    copy_dense(frontend.projection, "feature_projection.projection")
    copy(backbone.mask_token.embedding, "masked_spec_embed")
    for i, conv in enumerate(positions.convs):
        copy_dense(conv, f"encoder.pos_conv_embed.layers.{i}.conv")
    copy_norm(positions.norm, "encoder.layer_norm")
    for i, block in enumerate(backbone.encoder.blocks):
        layer = f"encoder.layers.{i}"
        names = [f"{layer}.attention.{x}_proj" for x in "qkv"]
        kernels = [state.pop(f"{name}.weight").T for name in names]
        block.attention.qkv_kernel.assign(np.concatenate(kernels, axis=1))
        copy(block.attention.query_bias, f"{names[0]}.bias")
        copy(block.attention.key_bias_weight, f"{names[1]}.bias")
        copy(block.attention.value_bias, f"{names[2]}.bias")
        copy_dense(block.attention.output_dense, f"{layer}.attention.out_proj")
        copy_norm(block.attention_norm, f"{layer}.layer_norm")
        copy_dense(block.intermediate_dense, f"{layer}.feed_forward.intermediate_dense")
        copy_dense(block.output_dense, f"{layer}.feed_forward.output_dense")
        copy_norm(block.output_norm, f"{layer}.final_layer_norm")
    assert not state, f"not transferred: {sorted(state)}"


def make_pair(padding="reference", **kwargs):
    theirs = huggingface_model(**kwargs)
    ours = our_backbone(theirs.config, padding)
    transfer(theirs.state_dict(), ours)
    return theirs, ours


def make_inputs(backbone, frames=(23, 11, 1)):
    """A batch of examples of so many frames: `waveform`, `padding_mask`, numbers of samples."""
    samples = []
    for number in frames:
        fewest = next(n for n in range(1, 10_000) if backbone.feature_lengths(n) == number)
        samples.append(fewest + 3)  # samples that reach no further frame
    padding_mask = np.arange(max(samples)) < np.array(samples)[:, None]
    waveform = np.random.default_rng(0).normal(size=padding_mask.shape).astype("float32")
    return waveform * padding_mask, padding_mask, samples


def assert_close(got, expected):
    expected = expected.detach().numpy()
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("name", CONFIGS)
def test_every_stage_equals_huggingface_without_padding(name):
    """In either form: it is padding that they treat differently."""
    theirs, ours = make_pair(**CONFIGS[name])
    invariant = our_backbone(theirs.config, "invariant")
    invariant.set_weights(ours.get_weights())
    waveform, _, _ = make_inputs(ours)
    with torch.no_grad():
        features = theirs.feature_extractor(torch.tensor(waveform)).transpose(1, 2)
        projected, _ = theirs.feature_projection(features)
        positions = theirs.encoder.pos_conv_embed(projected)
        outputs = theirs(torch.tensor(waveform), output_hidden_states=True)
    for backbone in (ours, invariant):
        assert_close(backbone.frontend.conv_features(waveform), features)
        embedded = backbone.frontend({"waveform": waveform})
        assert embedded["padding_mask"] is None
        assert_close(embedded["features"], projected)
        assert_close(backbone.positions.positions(embedded["features"]), positions)
        entry, *blocks = outputs.hidden_states
        assert_close(backbone.positions(embedded["features"]), entry)
        got = backbone.block_features({"waveform": waveform}, "block")
        for one, expected in zip(got, blocks, strict=True):
            assert_close(one, expected)
        assert_close(backbone({"waveform": waveform}), outputs.last_hidden_state)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_reference_form_equals_huggingface_with_padding(name):
    """At all frames, padding included."""
    theirs, ours = make_pair(**CONFIGS[name])
    waveform, padding_mask, _ = make_inputs(ours)
    feed_forward = []
    for layer in theirs.encoder.layers:
        layer.feed_forward.register_forward_hook(lambda *args: feed_forward.append(args[-1]))
    with torch.no_grad():
        outputs = theirs(
            torch.tensor(waveform),
            attention_mask=torch.tensor(padding_mask).long(),
            output_hidden_states=True,
        )
    inputs = {"waveform": waveform, "padding_mask": padding_mask}
    assert_close(ours(inputs), outputs.last_hidden_state)
    blocks = outputs.hidden_states[1:]  # the first are the embeddings
    for got, expected in zip(ours.block_features(inputs, "block"), blocks, strict=True):
        assert_close(got, expected)
    for got, expected in zip(ours.block_features(inputs, "ffn"), feed_forward, strict=True):
        assert_close(got, expected)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_invariant_form_equals_huggingface_on_each_example_by_itself(name):
    theirs, ours = make_pair("invariant", **CONFIGS[name])
    waveform, padding_mask, samples = make_inputs(ours)
    inputs = {"waveform": waveform, "padding_mask": padding_mask}
    output, blocks = ours(inputs), ours.block_features(inputs, "block")
    for row, number in enumerate(samples):
        with torch.no_grad():
            alone = theirs(
                torch.tensor(waveform[row : row + 1, :number]), output_hidden_states=True
            )
        frames = alone.last_hidden_state.shape[1]
        assert_close(output[row : row + 1, :frames], alone.last_hidden_state)
        for got, expected in zip(blocks, alone.hidden_states[1:], strict=True):
            assert_close(got[row : row + 1, :frames], expected)


def test_masked_frames_equal_huggingface():
    theirs, ours = make_pair()
    waveform, padding_mask, _ = make_inputs(ours, (23, 11))
    mask = np.random.default_rng(1).random((2, 23)) < 0.5
    mask[1, 11:] = False
    with torch.no_grad():
        expected = theirs(
            torch.tensor(waveform),
            attention_mask=torch.tensor(padding_mask).long(),
            mask_time_indices=torch.tensor(mask),
        ).last_hidden_state
    embedded = ours.frontend({"waveform": waveform, "padding_mask": padding_mask})
    features = ours.mask_token(embedded["features"], mask)
    frames = embedded["padding_mask"]
    assert_close(ours.encoder(ours.positions(features, frames), frames), expected)


def test_frames_and_their_mask_equal_huggingface():
    theirs, ours = make_pair(**CONFIGS["published_shape"])
    numbers = np.arange(400, 2000)
    expected = theirs._get_feat_extract_output_lengths(torch.tensor(numbers)).numpy()
    np.testing.assert_array_equal(ours.feature_lengths(numbers), expected)
    padding_mask = np.arange(2000) < numbers[:, None]
    frames = ours.feature_lengths(2000)
    expected = theirs._get_feature_vector_attention_mask(
        frames, torch.tensor(padding_mask).long()
    ).numpy()
    got = ours.feature_padding_mask({"padding_mask": padding_mask})
    np.testing.assert_array_equal(got, expected)
