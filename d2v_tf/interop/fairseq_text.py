"""fairseq's `data2vec_text` (`examples/data2vec/models/data2vec_text.py`), key by key."""

from d2v_tf.backbones.text import Data2VecTextBackbone
from d2v_tf.interop.fairseq_blocks import block_keys
from d2v_tf.interop.fairseq_config import fields_of, read_fields, read_num_heads, value_of
from d2v_tf.interop.key_map import WeightsError
from d2v_tf.interop.layouts import POSITIONS, SAME
from d2v_tf.interop.original_model import OriginalModel

ENCODER = "encoder.sentence_encoder"
LAYER = f"{ENCODER}.layers.{{i}}"
# Of fairseq's dictionaries: <s> is 0, <pad> 1, </s> 2, <unk> 3.
PADDING_TOKEN_ID = 1

KEYS = (
    ("frontend.token_embedding.embeddings", SAME, f"{ENCODER}.embed_tokens.weight"),
    ("positions.position_embedding", POSITIONS, f"{ENCODER}.embed_positions.weight"),
    ("positions.norm.gamma", SAME, f"{ENCODER}.layernorm_embedding.weight"),
    ("positions.norm.beta", SAME, f"{ENCODER}.layernorm_embedding.bias"),
    *block_keys(LAYER),
)
# What older files call it, as patterns: the same model was a decoder, and its norm went after it.
RENAMED = (
    (r"(^|\.)decoder\.(?=sentence_encoder\.|_ema\.|lm_head\.|regression_head\.)", r"\1encoder."),
    (r"\.emb_layer_norm\.", ".layernorm_embedding."),
)
RATES = {"dropout": ("dropout", 0.1), "attention_dropout": ("attention_dropout", 0.1)}
REQUIRED = {
    "activation_fn": ("gelu",),  # the exact one
    "encoder_normalize_before": (False,),
    "encoder_learned_pos": (True,),
    "layernorm_embedding": (True,),
    "no_scale_embedding": (True,),
    "no_token_positional_embeddings": (False,),
    "adaptive_input": (False,),
    # Rates that this backbone has no argument for.
    "activation_dropout": (0, 0.0),
    "encoder_layerdrop": (0, 0.0),
}


def architecture(shapes, fields):
    """The backbone's arguments, from shapes and from what they do not show."""
    fields = _flatten(fields)
    vocabulary_size, hidden_dim = shapes.shape(f"{ENCODER}.embed_tokens.weight", 2)
    longest = shapes.shape(f"{ENCODER}.embed_positions.weight", 2)[0] - PADDING_TOKEN_ID - 1
    if longest < 1:
        raise WeightsError(f"{shapes.name}: {ENCODER}.embed_positions.weight has no positions.")
    arguments = {
        "vocabulary_size": vocabulary_size,
        "max_sequence_length": longest,
        "num_layers": shapes.count(f"{ENCODER}.layers."),
        "hidden_dim": hidden_dim,
        "intermediate_dim": shapes.shape(f"{ENCODER}.layers.0.fc1.weight", 2)[0],
        "padding_token_id": PADDING_TOKEN_ID,
    }
    visible = {
        "encoder_layers": arguments["num_layers"],
        "encoder_embed_dim": hidden_dim,
        "encoder_ffn_embed_dim": arguments["intermediate_dim"],
        "max_source_positions": longest,
    }
    arguments |= read_fields(fields, shapes.name, visible, RATES, REQUIRED)
    heads, assumed = read_num_heads(fields, "encoder_attention_heads", hidden_dim, shapes.name)
    sizes = {"padding_token_id": PADDING_TOKEN_ID}
    return {**arguments, "num_heads": heads}, sizes, assumed


def _flatten(fields):
    """Fields by the names of before they were nested: `encoder_layers`, not `encoder: {layers}`."""
    transformer = fields_of(fields.get("transformer"))
    encoder = fields_of(transformer.get("encoder"))
    flat = {**fields, **transformer, **{f"encoder_{k}": v for k, v in encoder.items()}}
    return {name: value_of(node) for name, node in flat.items()}


FAIRSEQ_TEXT = OriginalModel(
    kind="a fairseq file (data2vec_text)",
    backbone_class=Data2VecTextBackbone,
    mark=f"{ENCODER}.embed_tokens.weight",
    keys=KEYS,
    architecture=architecture,
    optional=(),
    constants=(f"{ENCODER}.version", f"{ENCODER}.embed_positions._float_tensor"),
    teacher=lambda prefix, key: f"{prefix}encoder._ema.{key.removeprefix(f'{ENCODER}.')}",
    # Files of before the head had a name of its own call it `lm_head`.
    heads=tuple(
        tuple(f"encoder.{name}.{i}" for i in layers)
        for name in ("regression_head", "lm_head")
        for layers in ((0, 2), (0,))
    ),
)
