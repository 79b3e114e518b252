"""Hugging Face's `Data2VecTextModel`, key by key and field by field."""

from d2v_tf.backbones.text import Data2VecTextBackbone
from d2v_tf.interop.huggingface_config import (
    HuggingFaceModel,
    activation_argument,
    activation_field,
)
from d2v_tf.interop.layouts import POSITIONS_AND_SEGMENTS, QUERY_KEY_VALUE, SAME, TRANSPOSED

BLOCK = "encoder.blocks.{i}"
LAYER = "encoder.layer.{i}"
ATTENTION = f"{LAYER}.attention.self"
ATTENTION_OUTPUT = f"{LAYER}.attention.output"

KEYS = (
    ("frontend.token_embedding.embeddings", SAME, "embeddings.word_embeddings.weight"),
    (
        "positions.position_embedding",
        POSITIONS_AND_SEGMENTS,
        "embeddings.position_embeddings.weight",
        "embeddings.token_type_embeddings.weight",
    ),
    ("positions.norm.gamma", SAME, "embeddings.LayerNorm.weight"),
    ("positions.norm.beta", SAME, "embeddings.LayerNorm.bias"),
    (
        f"{BLOCK}.attention.qkv_kernel",
        QUERY_KEY_VALUE,
        f"{ATTENTION}.query.weight",
        f"{ATTENTION}.key.weight",
        f"{ATTENTION}.value.weight",
    ),
    (f"{BLOCK}.attention.query_bias", SAME, f"{ATTENTION}.query.bias"),
    (f"{BLOCK}.attention.key_bias_weight", SAME, f"{ATTENTION}.key.bias"),
    (f"{BLOCK}.attention.value_bias", SAME, f"{ATTENTION}.value.bias"),
    (f"{BLOCK}.attention.output_dense.kernel", TRANSPOSED, f"{ATTENTION_OUTPUT}.dense.weight"),
    (f"{BLOCK}.attention.output_dense.bias", SAME, f"{ATTENTION_OUTPUT}.dense.bias"),
    (f"{BLOCK}.attention_norm.gamma", SAME, f"{ATTENTION_OUTPUT}.LayerNorm.weight"),
    (f"{BLOCK}.attention_norm.beta", SAME, f"{ATTENTION_OUTPUT}.LayerNorm.bias"),
    (f"{BLOCK}.intermediate_dense.kernel", TRANSPOSED, f"{LAYER}.intermediate.dense.weight"),
    (f"{BLOCK}.intermediate_dense.bias", SAME, f"{LAYER}.intermediate.dense.bias"),
    (f"{BLOCK}.output_dense.kernel", TRANSPOSED, f"{LAYER}.output.dense.weight"),
    (f"{BLOCK}.output_dense.bias", SAME, f"{LAYER}.output.dense.bias"),
    (f"{BLOCK}.output_norm.gamma", SAME, f"{LAYER}.output.LayerNorm.weight"),
    (f"{BLOCK}.output_norm.beta", SAME, f"{LAYER}.output.LayerNorm.bias"),
)
ARGUMENTS = {
    "vocab_size": ("vocabulary_size", 30522),
    "hidden_size": ("hidden_dim", 768),
    "num_hidden_layers": ("num_layers", 12),
    "num_attention_heads": ("num_heads", 12),
    "intermediate_size": ("intermediate_dim", 3072),
    "hidden_dropout_prob": ("dropout", 0.1),
    "attention_probs_dropout_prob": ("attention_dropout", 0.1),
    "layer_norm_eps": ("layer_norm_epsilon", 1e-12),
    "pad_token_id": ("padding_token_id", 1),
}
SPECIAL = {
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
}
REQUIRED = {"position_embedding_type": ("absolute",)}
IGNORED = frozenset({"classifier_dropout"})


def to_arguments(fields):
    """Our arguments for the special fields."""
    longest = fields["max_position_embeddings"] - fields["pad_token_id"] - 1
    if longest < 1:
        raise ValueError(
            f"max_position_embeddings is {fields['max_position_embeddings']}, which leaves no "
            f"position behind pad_token_id, {fields['pad_token_id']}."
        )
    if fields["type_vocab_size"] < 1:
        raise ValueError(f"type_vocab_size is {fields['type_vocab_size']}; at least 1 is needed.")
    return {
        "max_sequence_length": longest,
        "activation": activation_argument("hidden_act", fields["hidden_act"]),
    }


def to_fields(backbone):
    """The special fields of our backbone."""
    return {
        "hidden_act": activation_field(backbone.activation),
        "max_position_embeddings": backbone.max_sequence_length + backbone.padding_token_id + 1,
        "type_vocab_size": 1,
    }


TEXT = HuggingFaceModel(
    model_type="data2vec-text",
    architecture="Data2VecTextModel",
    prefix="data2vec_text.",
    backbone_class=Data2VecTextBackbone,
    keys=KEYS,
    arguments=ARGUMENTS,
    special=SPECIAL,
    required=REQUIRED,
    ignored=IGNORED,
    ours={},
    constants="position_ids",
    to_arguments=to_arguments,
    to_fields=to_fields,
    sizes=lambda fields: {
        "padding_token_id": fields["pad_token_id"],
        "segments": fields["type_vocab_size"],
    },
    optional=lambda fields: (),
)
