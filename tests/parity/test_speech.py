"""Our speech backbone against Hugging Face's `Data2VecAudioModel`, stage by stage."""

import numpy as np
import pytest

from d2v_tf.backbones.speech import Data2VecSpeechBackbone
from tests.parity.models import assert_close, backbone_of, perturbed, torch, transformers

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


def make_pair(padding="reference", **kwargs):
    config = transformers.Data2VecAudioConfig(**{**COMMON, **kwargs}, attn_implementation="eager")
    theirs = perturbed(transformers.Data2VecAudioModel(config))
    ours = backbone_of(theirs)
    return theirs, ours if padding == ours.padding else with_padding(ours, padding)


def with_padding(backbone, padding):
    other = Data2VecSpeechBackbone.from_config({**backbone.get_config(), "padding": padding})
    other.set_weights(backbone.get_weights())
    return other


def make_inputs(backbone, frames=(23, 11, 1)):
    """A batch of examples of so many frames: `waveform`, `padding_mask`, numbers of samples."""
    samples = []
    for number in frames:
        fewest = next(n for n in range(1, 10_000) if backbone.feature_lengths(n) == number)
        samples.append(fewest + 3)  # samples that reach no further frame
    padding_mask = np.arange(max(samples)) < np.array(samples)[:, None]
    waveform = np.random.default_rng(0).normal(size=padding_mask.shape).astype("float32")
    return waveform * padding_mask, padding_mask, samples


@pytest.mark.parametrize("name", CONFIGS)
def test_every_stage_equals_huggingface_without_padding(name):
    """In either form: it is padding that they treat differently."""
    theirs, ours = make_pair(**CONFIGS[name])
    invariant = with_padding(ours, "invariant")
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
