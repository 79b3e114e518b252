"""Our text backbone against Hugging Face's `Data2VecTextModel`, weights random."""

import numpy as np
import pytest

from tests.parity.models import assert_close, backbone_of, perturbed, torch, transformers

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


def make_pair(**kwargs):
    config = transformers.Data2VecTextConfig(**{**COMMON, **kwargs}, attn_implementation="eager")
    theirs = perturbed(transformers.Data2VecTextModel(config, add_pooling_layer=False))
    return theirs, backbone_of(theirs)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_and_every_block_equal_huggingface(name, padded):
    theirs, ours = make_pair(**CONFIGS[name])
    padding = theirs.config.pad_token_id
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
