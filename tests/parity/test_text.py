"""Our text backbone against Hugging Face's `Data2VecTextModel`, weights random."""

import numpy as np
import pytest

from d2v_tf.backbones.text import Data2VecTextBackbone

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install transformers"
)

COMMON = {
    "vocab_size": 30,
    "max_position_embeddings": 12,  # RoBERTa's rows 0 and 1 stand for no real token
    "type_vocab_size": 1,
    "num_hidden_layers": 3,
    "hidden_size": 12,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
}
CONFIGS = {
    "as_published": {},
    "two_segments": {"type_vocab_size": 2},
    "other_padding": {
        "pad_token_id": 4,
        "max_position_embeddings": 15,
        "layer_norm_eps": 1e-3,
        "hidden_act": "relu",
    },
}
# Padding (1) behind, in front and between, and none at all.
TOKENS = np.array(
    [
        [0, 9, 8, 17, 5, 22, 23, 7, 19, 2],
        [0, 9, 8, 17, 2, 1, 1, 1, 1, 1],
        [1, 1, 0, 29, 8, 17, 12, 2, 1, 1],
        [0, 2, 1, 1, 0, 9, 28, 2, 1, 0],
    ]
)


def huggingface_model(**kwargs):
    config = transformers.Data2VecTextConfig(**{**COMMON, **kwargs}, attn_implementation="eager")
    model = transformers.Data2VecTextModel(config, add_pooling_layer=False).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():  # no zero or one is left to hide a mistake
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return model


def our_backbone(config):
    return Data2VecTextBackbone(
        vocabulary_size=config.vocab_size,
        max_sequence_length=config.max_position_embeddings - config.pad_token_id - 1,
        num_layers=config.num_hidden_layers,
        hidden_dim=config.hidden_size,
        num_heads=config.num_attention_heads,
        intermediate_dim=config.intermediate_size,
        layer_norm_epsilon=config.layer_norm_eps,
        activation=config.hidden_act,
        padding_token_id=config.pad_token_id,
    )


def transfer(state, backbone):
    """Copies a Hugging Face state dict; every tensor must find its place."""
    state = {name: tensor.detach().numpy() for name, tensor in state.items()}

    def copy_dense(layer, name):
        layer.kernel.assign(state.pop(f"{name}.weight").T)
        layer.bias.assign(state.pop(f"{name}.bias"))

    def copy_norm(layer, name):
        layer.gamma.assign(state.pop(f"{name}.weight"))
        layer.beta.assign(state.pop(f"{name}.bias"))

    words = state.pop("embeddings.word_embeddings.weight")
    backbone.frontend.token_embedding.embeddings.assign(words)
    table = state.pop("embeddings.position_embeddings.weight")[backbone.padding_token_id :]
    segment = state.pop("embeddings.token_type_embeddings.weight")[0]
    backbone.positions.position_embedding.assign(table + segment)
    copy_norm(backbone.positions.norm, "embeddings.LayerNorm")
    for i, block in enumerate(backbone.encoder.blocks):
        layer = f"encoder.layer.{i}"
        attention = f"{layer}.attention.self"
        kernels = [state.pop(f"{attention}.{x}.weight").T for x in ("query", "key", "value")]
        block.attention.qkv_kernel.assign(np.concatenate(kernels, axis=1))
        block.attention.query_bias.assign(state.pop(f"{attention}.query.bias"))
        block.attention.key_bias_weight.assign(state.pop(f"{attention}.key.bias"))
        block.attention.value_bias.assign(state.pop(f"{attention}.value.bias"))
        copy_dense(block.attention.output_dense, f"{layer}.attention.output.dense")
        copy_norm(block.attention_norm, f"{layer}.attention.output.LayerNorm")
        copy_dense(block.intermediate_dense, f"{layer}.intermediate.dense")
        copy_dense(block.output_dense, f"{layer}.output.dense")
        copy_norm(block.output_norm, f"{layer}.output.LayerNorm")
    assert not state, f"not transferred: {sorted(state)}"


def assert_close(got, expected):
    expected = expected.detach().numpy()
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_and_every_block_equal_huggingface(name, padded):
    theirs = huggingface_model(**CONFIGS[name])
    padding = theirs.config.pad_token_id
    ours = our_backbone(theirs.config)
    transfer(theirs.state_dict(), ours)
    tokens = np.where(TOKENS == 1, padding, TOKENS) if padded else TOKENS[:1]
    mask = tokens != padding
    assert padded == (not mask.all())
    feed_forward = []
    for layer in theirs.encoder.layer:
        layer.output.dense.register_forward_hook(lambda m, args, out: feed_forward.append(out))
    with torch.no_grad():
        outputs = theirs(
            torch.tensor(tokens),
            attention_mask=torch.tensor(mask, dtype=torch.long),
            output_hidden_states=True,
        )
    # Padded positions too: all of them attend to the real ones alone.
    for inputs in (
        {"token_ids": tokens, "padding_mask": mask},
        {"token_ids": tokens},
    ):
        assert_close(ours(inputs), outputs.last_hidden_state)
        embedded = ours.frontend(inputs)
        got = ours.positions(embedded["features"], embedded["padding_mask"])
        assert_close(got, outputs.hidden_states[0])
        hidden = outputs.hidden_states[1:]
        for got, expected in zip(ours.block_features(inputs, "block"), hidden, strict=True):
            assert_close(got, expected)
        for got, expected in zip(ours.block_features(inputs, "ffn"), feed_forward, strict=True):
            assert_close(got, expected)
