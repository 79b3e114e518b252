"""data2vec's vision model as BEiT's code writes it (facebookresearch/data2vec_vision), by keys."""

import math

from d2v_tf.backbones.vision import Data2VecVisionBackbone
from d2v_tf.interop.fairseq_config import read_fields, read_num_heads
from d2v_tf.interop.huggingface_config import is_like
from d2v_tf.interop.key_map import WeightsError
from d2v_tf.interop.layouts import PATCHES, SAME, TRANSPOSED, VECTOR
from d2v_tf.interop.original_model import OriginalModel

BLOCK = "encoder.blocks.{i}"
LAYER = "blocks.{i}"
TABLE = "relative_position_bias_table"

KEYS = (
    ("frontend.patch_embedding.kernel", PATCHES, "patch_embed.proj.weight"),
    ("frontend.patch_embedding.bias", SAME, "patch_embed.proj.bias"),
    ("mask_token.embedding", VECTOR, "mask_token"),
    ("positions.class_token", SAME, "cls_token"),
    ("positions.position_embedding", SAME, "pos_embed"),
    ("encoder.shared_bias.table", SAME, f"rel_pos_bias.{TABLE}"),
    (f"{BLOCK}.attention.qkv_kernel", TRANSPOSED, f"{LAYER}.attn.qkv.weight"),
    (f"{BLOCK}.attention.query_bias", SAME, f"{LAYER}.attn.q_bias"),
    (f"{BLOCK}.attention.value_bias", SAME, f"{LAYER}.attn.v_bias"),
    (f"{BLOCK}.attention.output_dense.kernel", TRANSPOSED, f"{LAYER}.attn.proj.weight"),
    (f"{BLOCK}.attention.output_dense.bias", SAME, f"{LAYER}.attn.proj.bias"),
    (f"{BLOCK}.relative_position_bias.table", SAME, f"{LAYER}.attn.{TABLE}"),
    (f"{BLOCK}.attention_norm.gamma", SAME, f"{LAYER}.norm1.weight"),
    (f"{BLOCK}.attention_norm.beta", SAME, f"{LAYER}.norm1.bias"),
    (f"{BLOCK}.attention_scale.gamma", SAME, f"{LAYER}.gamma_1"),
    (f"{BLOCK}.intermediate_dense.kernel", TRANSPOSED, f"{LAYER}.mlp.fc1.weight"),
    (f"{BLOCK}.intermediate_dense.bias", SAME, f"{LAYER}.mlp.fc1.bias"),
    (f"{BLOCK}.output_dense.kernel", TRANSPOSED, f"{LAYER}.mlp.fc2.weight"),
    (f"{BLOCK}.output_dense.bias", SAME, f"{LAYER}.mlp.fc2.bias"),
    (f"{BLOCK}.output_norm.gamma", SAME, f"{LAYER}.norm2.weight"),
    (f"{BLOCK}.output_norm.beta", SAME, f"{LAYER}.norm2.bias"),
    (f"{BLOCK}.output_scale.gamma", SAME, f"{LAYER}.gamma_2"),
    ("final_norm.gamma", SAME, "norm.weight"),
    ("final_norm.beta", SAME, "norm.bias"),
)
RATES = {
    "drop": ("dropout", 0.0),
    "attn_drop_rate": ("attention_dropout", 0.0),
    "drop_path": ("drop_path_rate", 0.1),
}


def architecture(shapes, fields):
    """The backbone's arguments, from shapes and from what they do not show."""
    hidden_dim, channels, patch_size, width = shapes.shape("patch_embed.proj.weight", 4)
    if patch_size != width:
        raise WeightsError(f"{shapes.name}: patches are {patch_size} x {width}, not square.")
    per_block = f"blocks.0.attn.{TABLE}"
    shared = f"rel_pos_bias.{TABLE}"
    if per_block in shapes and shared in shapes:
        raise WeightsError(
            f"{shapes.name}: it has relative positions in every block and shared ones, which is "
            "not supported; published models have one of them."
        )
    table = next((key for key in (per_block, shared) if key in shapes), None)
    if table:
        heads, assumed = shapes.shape(table, 2)[1], ()
    else:
        heads, assumed = read_num_heads({}, "num_heads", hidden_dim, shapes.name)
    side, more = _grid(shapes, fields, table, patch_size)
    scaled = "blocks.0.gamma_1" in shapes
    arguments = {
        "image_shape": (side * patch_size, side * patch_size, channels),
        "patch_size": patch_size,
        "num_layers": shapes.count("blocks."),
        "hidden_dim": hidden_dim,
        "num_heads": heads,
        "intermediate_dim": shapes.shape("blocks.0.mlp.fc1.weight", 2)[0],
        "layer_scale_init_value": 1e-4 if scaled else None,
        "relative_position_bias": {per_block: "per_block", shared: "shared", None: None}[table],
        "absolute_position": "pos_embed" in shapes,
        "final_norm": "norm.weight" in shapes,
    }
    visible = {
        "input_size": side * patch_size,
        "rel_pos_bias": table is not None,
        "abs_pos_emb": arguments["absolute_position"],
    }
    rates = dict(RATES)
    if scaled:
        rates["layer_scale_init_value"] = ("layer_scale_init_value", 0.1)
    arguments |= read_fields(fields, shapes.name, visible, rates, {})
    return arguments, {"patch_size": patch_size}, (*assumed, *more)


def _grid(shapes, fields, table, patch_size):
    """(patches a side, what was assumed)."""
    if table:  # (2 * side - 1)^2 rows, and 3 for the class token
        rows = shapes.shape(table, 2)[0]
        side = (math.isqrt(max(rows - 3, 0)) + 1) // 2
        fits = rows == (2 * side - 1) ** 2 + 3
    elif "pos_embed" in shapes:
        rows = shapes.shape("pos_embed", 3)[1]
        side = math.isqrt(rows - 1)
        fits = rows == side**2 + 1
    else:
        size = fields.get("input_size", 224)
        assumed = () if "input_size" in fields else ("images of 224 pixels, as no tensor shows it",)
        if not is_like(size, 224) or size < patch_size:
            raise WeightsError(
                f"{shapes.name}: in its configuration, input_size is {size!r}; a number of pixels, "
                f"at least the {patch_size} of a patch, is needed."
            )
        return size // patch_size, assumed
    if not fits or not side:
        raise WeightsError(
            f"{shapes.name}: its {rows} positions are for no square grid of patches; only square "
            "images are read."
        )
    return side, ()


BEIT_VISION = OriginalModel(
    kind="a BEiT file (data2vec's vision model)",
    backbone_class=Data2VecVisionBackbone,
    mark="patch_embed.proj.weight",
    keys=KEYS,
    architecture=architecture,
    optional=("mask_token.embedding",),  # a fine-tuned model has none
    constants=("relative_position_index",),
    teacher=lambda prefix, key: f"model_ema.{key}",
    heads=(("lm_head",),),
)
