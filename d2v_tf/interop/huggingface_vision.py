"""Hugging Face's `Data2VecVisionModel`, key by key and field by field."""

from d2v_tf.backbones.vision import Data2VecVisionBackbone
from d2v_tf.interop.huggingface_config import (
    HuggingFaceModel,
    activation_argument,
    activation_field,
)
from d2v_tf.interop.layouts import PATCHES, QUERY_KEY_VALUE, SAME, TRANSPOSED, VECTOR

BLOCK = "encoder.blocks.{i}"
LAYER = "encoder.layer.{i}"
ATTENTION = f"{LAYER}.attention.attention"
ATTENTION_OUTPUT = f"{LAYER}.attention.output"
TABLE = "relative_position_bias.relative_position_bias_table"

KEYS = (
    ("frontend.patch_embedding.kernel", PATCHES, "embeddings.patch_embeddings.projection.weight"),
    ("frontend.patch_embedding.bias", SAME, "embeddings.patch_embeddings.projection.bias"),
    ("mask_token.embedding", VECTOR, "embeddings.mask_token"),
    ("positions.class_token", SAME, "embeddings.cls_token"),
    ("positions.position_embedding", SAME, "embeddings.position_embeddings"),
    ("encoder.shared_bias.table", SAME, f"encoder.{TABLE}"),
    (
        f"{BLOCK}.attention.qkv_kernel",
        QUERY_KEY_VALUE,
        f"{ATTENTION}.query.weight",
        f"{ATTENTION}.key.weight",
        f"{ATTENTION}.value.weight",
    ),
    (f"{BLOCK}.attention.query_bias", SAME, f"{ATTENTION}.query.bias"),
    (f"{BLOCK}.attention.value_bias", SAME, f"{ATTENTION}.value.bias"),
    (f"{BLOCK}.attention.output_dense.kernel", TRANSPOSED, f"{ATTENTION_OUTPUT}.dense.weight"),
    (f"{BLOCK}.attention.output_dense.bias", SAME, f"{ATTENTION_OUTPUT}.dense.bias"),
    (f"{BLOCK}.relative_position_bias.table", SAME, f"{ATTENTION}.{TABLE}"),
    (f"{BLOCK}.attention_norm.gamma", SAME, f"{LAYER}.layernorm_before.weight"),
    (f"{BLOCK}.attention_norm.beta", SAME, f"{LAYER}.layernorm_before.bias"),
    (f"{BLOCK}.attention_scale.gamma", SAME, f"{LAYER}.lambda_1"),
    (f"{BLOCK}.intermediate_dense.kernel", TRANSPOSED, f"{LAYER}.intermediate.dense.weight"),
    (f"{BLOCK}.intermediate_dense.bias", SAME, f"{LAYER}.intermediate.dense.bias"),
    (f"{BLOCK}.output_dense.kernel", TRANSPOSED, f"{LAYER}.output.dense.weight"),
    (f"{BLOCK}.output_dense.bias", SAME, f"{LAYER}.output.dense.bias"),
    (f"{BLOCK}.output_norm.gamma", SAME, f"{LAYER}.layernorm_after.weight"),
    (f"{BLOCK}.output_norm.beta", SAME, f"{LAYER}.layernorm_after.bias"),
    (f"{BLOCK}.output_scale.gamma", SAME, f"{LAYER}.lambda_2"),
    ("final_norm.gamma", SAME, "layernorm.weight"),
    ("final_norm.beta", SAME, "layernorm.bias"),
)
ARGUMENTS = {
    "hidden_size": ("hidden_dim", 768),
    "num_hidden_layers": ("num_layers", 12),
    "num_attention_heads": ("num_heads", 12),
    "intermediate_size": ("intermediate_dim", 3072),
    "hidden_dropout_prob": ("dropout", 0.0),
    "attention_probs_dropout_prob": ("attention_dropout", 0.0),
    "drop_path_rate": ("drop_path_rate", 0.1),
    "layer_norm_eps": ("layer_norm_epsilon", 1e-12),
    "use_absolute_position_embeddings": ("absolute_position", False),
}
SPECIAL = {
    "hidden_act": "gelu",
    "image_size": None,  # 224; an int or a pair of them
    "patch_size": None,  # 16; the same
    "num_channels": 3,
    "use_mask_token": False,
    "use_relative_position_bias": False,
    "use_shared_relative_position_bias": False,
    "layer_scale_init_value": 0.1,
    "use_mean_pooling": True,
}
# Of heads for segmentation, and of BEiT, which these files were converted from.
IGNORED = frozenset(
    "out_indices pool_scales use_auxiliary_head auxiliary_loss_weight auxiliary_channels "
    "auxiliary_num_convs auxiliary_concat_input semantic_loss_ignore_index vocab_size add_fpn "
    "out_features stage_names reshape_hidden_states".split()
)


def _pair(field, value, default):
    value = default if value is None else value
    pair = (value, value) if isinstance(value, int) else value
    if not (
        isinstance(pair, (list, tuple))
        and len(pair) == 2
        and all(isinstance(x, int) and x > 0 for x in pair)
    ):
        raise ValueError(f"{field} is {value!r}; an int or two of them are needed.")
    return tuple(pair)


def _check_square(image_size, relative_position_bias, absolute_position, name):
    """Their tables are of no use on other images: they read the one as width by height, which
    mixes it up, and refuse the other."""
    if image_size[0] != image_size[1] and (relative_position_bias or absolute_position):
        raise ValueError(
            f"{name} is {tuple(image_size)}: with positions, images that are not square are not "
            "supported, because transformers itself does not read their tables back."
        )


def to_arguments(fields):
    """Our arguments for the special fields."""
    image_size = _pair("image_size", fields["image_size"], 224)
    patch_size = _pair("patch_size", fields["patch_size"], 16)
    if patch_size[0] != patch_size[1]:
        raise ValueError(f"patch_size is {patch_size}: patches must be square.")
    per_block = fields["use_relative_position_bias"]
    shared = fields["use_shared_relative_position_bias"]
    if per_block and shared:
        raise ValueError(
            "use_relative_position_bias and use_shared_relative_position_bias are both true, which "
            "is not supported; published models have one of them."
        )
    bias = "per_block" if per_block else "shared" if shared else None
    _check_square(image_size, bias, fields["use_absolute_position_embeddings"], "image_size")
    scale = fields["layer_scale_init_value"]
    return {
        "image_shape": (*image_size, fields["num_channels"]),
        "patch_size": patch_size[0],
        "layer_scale_init_value": scale if scale > 0 else None,
        "activation": activation_argument("hidden_act", fields["hidden_act"]),
        "relative_position_bias": bias,
        "final_norm": not fields["use_mean_pooling"],
    }


def to_fields(backbone):
    """The special fields of our backbone."""
    height, width, channels = backbone.image_shape
    bias, scale = backbone.relative_position_bias, backbone.layer_scale_init_value
    _check_square((height, width), bias, backbone.absolute_position, "image_shape")
    if scale is not None and scale <= 0:
        raise ValueError(
            f"layer_scale_init_value={scale}: there, a value that is not positive means none."
        )
    return {
        "hidden_act": activation_field(backbone.activation),
        "image_size": height if height == width else [height, width],
        "patch_size": backbone.patch_size,
        "num_channels": channels,
        "use_mask_token": True,
        "use_relative_position_bias": bias == "per_block",
        "use_shared_relative_position_bias": bias == "shared",
        "layer_scale_init_value": scale or 0.0,
        "use_mean_pooling": backbone.final_norm is None,
    }


VISION = HuggingFaceModel(
    model_type="data2vec-vision",
    architecture="Data2VecVisionModel",
    prefix="data2vec_vision.",
    backbone_class=Data2VecVisionBackbone,
    keys=KEYS,
    arguments=ARGUMENTS,
    special=SPECIAL,
    required={},
    ignored=IGNORED,
    ours={},
    constants="relative_position_index",
    to_arguments=to_arguments,
    to_fields=to_fields,
    sizes=lambda fields: {"patch_size": _pair("patch_size", fields["patch_size"], 16)[0]},
    optional=lambda fields: () if fields["use_mask_token"] else ("mask_token.embedding",),
)
