"""Hugging Face's `Data2VecAudioModel`, key by key and field by field."""

from d2v_tf.backbones.speech import Data2VecSpeechBackbone
from d2v_tf.interop.huggingface_config import (
    HuggingFaceModel,
    activation_argument,
    activation_field,
)
from d2v_tf.interop.layouts import QUERY_KEY_VALUE, SAME, TRANSPOSED

CONV = "feature_extractor.conv_layers.{i}"
BLOCK = "encoder.blocks.{i}"
LAYER = "encoder.layers.{i}"
FEED_FORWARD = f"{LAYER}.feed_forward"

KEYS = (
    ("frontend.convs.{i}.kernel", TRANSPOSED, f"{CONV}.conv.weight"),
    ("frontend.convs.{i}.bias", SAME, f"{CONV}.conv.bias"),
    ("frontend.conv_norms.{i}.gamma", SAME, f"{CONV}.layer_norm.weight"),
    ("frontend.conv_norms.{i}.beta", SAME, f"{CONV}.layer_norm.bias"),
    ("frontend.feature_norm.gamma", SAME, "feature_projection.layer_norm.weight"),
    ("frontend.feature_norm.beta", SAME, "feature_projection.layer_norm.bias"),
    ("frontend.projection.kernel", TRANSPOSED, "feature_projection.projection.weight"),
    ("frontend.projection.bias", SAME, "feature_projection.projection.bias"),
    ("mask_token.embedding", SAME, "masked_spec_embed"),
    ("positions.convs.{i}.kernel", TRANSPOSED, "encoder.pos_conv_embed.layers.{i}.conv.weight"),
    ("positions.convs.{i}.bias", SAME, "encoder.pos_conv_embed.layers.{i}.conv.bias"),
    ("positions.norm.gamma", SAME, "encoder.layer_norm.weight"),
    ("positions.norm.beta", SAME, "encoder.layer_norm.bias"),
    (
        f"{BLOCK}.attention.qkv_kernel",
        QUERY_KEY_VALUE,
        f"{LAYER}.attention.q_proj.weight",
        f"{LAYER}.attention.k_proj.weight",
        f"{LAYER}.attention.v_proj.weight",
    ),
    (f"{BLOCK}.attention.query_bias", SAME, f"{LAYER}.attention.q_proj.bias"),
    (f"{BLOCK}.attention.key_bias_weight", SAME, f"{LAYER}.attention.k_proj.bias"),
    (f"{BLOCK}.attention.value_bias", SAME, f"{LAYER}.attention.v_proj.bias"),
    (f"{BLOCK}.attention.output_dense.kernel", TRANSPOSED, f"{LAYER}.attention.out_proj.weight"),
    (f"{BLOCK}.attention.output_dense.bias", SAME, f"{LAYER}.attention.out_proj.bias"),
    (f"{BLOCK}.attention_norm.gamma", SAME, f"{LAYER}.layer_norm.weight"),
    (f"{BLOCK}.attention_norm.beta", SAME, f"{LAYER}.layer_norm.bias"),
    (f"{BLOCK}.intermediate_dense.kernel", TRANSPOSED, f"{FEED_FORWARD}.intermediate_dense.weight"),
    (f"{BLOCK}.intermediate_dense.bias", SAME, f"{FEED_FORWARD}.intermediate_dense.bias"),
    (f"{BLOCK}.output_dense.kernel", TRANSPOSED, f"{FEED_FORWARD}.output_dense.weight"),
    (f"{BLOCK}.output_dense.bias", SAME, f"{FEED_FORWARD}.output_dense.bias"),
    (f"{BLOCK}.output_norm.gamma", SAME, f"{LAYER}.final_layer_norm.weight"),
    (f"{BLOCK}.output_norm.beta", SAME, f"{LAYER}.final_layer_norm.bias"),
)
ARGUMENTS = {
    "hidden_size": ("hidden_dim", 768),
    "num_hidden_layers": ("num_layers", 12),
    "num_attention_heads": ("num_heads", 12),
    "intermediate_size": ("intermediate_dim", 3072),
    "conv_dim": ("conv_dims", (512,) * 7),
    "conv_kernel": ("conv_kernel_sizes", (10, 3, 3, 3, 3, 2, 2)),
    "conv_stride": ("conv_strides", (5, 2, 2, 2, 2, 2, 2)),
    "conv_bias": ("conv_bias", False),
    "num_conv_pos_embeddings": ("position_conv_layers", 5),
    "conv_pos_kernel_size": ("position_conv_kernel_size", 19),
    "num_conv_pos_embedding_groups": ("position_conv_groups", 16),
    "hidden_dropout": ("dropout", 0.1),
    "attention_dropout": ("attention_dropout", 0.1),
    "activation_dropout": ("activation_dropout", 0.1),
    "feat_proj_dropout": ("feature_dropout", 0.0),
    "layerdrop": ("layer_drop", 0.1),
    "layer_norm_eps": ("layer_norm_epsilon", 1e-5),
}
SPECIAL = {
    "hidden_act": "gelu",
    "num_feat_extract_layers": None,  # as many as conv_dim has
    "mask_time_prob": 0.05,
    "mask_feature_prob": 0.0,
}
REQUIRED = {
    # Of the convolutions; every published model has the exact GELU there.
    "feat_extract_activation": ("gelu", "gelu_python"),
    "add_adapter": (False,),
}
# The masks of a training, which a recipe sets here; heads; and fields of wav2vec 2.0, which these
# files were converted from and whose class for data2vec reads none of them.
IGNORED = frozenset(
    "vocab_size mask_time_length mask_time_min_masks mask_feature_length mask_feature_min_masks "
    "apply_spec_augment mask_channel_length mask_channel_min_space mask_channel_other "
    "mask_channel_prob mask_channel_selection mask_time_min_space mask_time_other "
    "mask_time_selection "
    "final_dropout ctc_loss_reduction ctc_zero_infinity use_weighted_layer_sum "
    "classifier_proj_size tdnn_dim tdnn_kernel tdnn_dilation xvector_output_dim "
    "adapter_kernel_size adapter_stride num_adapter_layers adapter_attn_dim output_hidden_size "
    "do_stable_layer_norm feat_extract_norm feat_extract_dropout hidden_dropout_prob "
    "feat_quantizer_dropout codevector_dim proj_codevector_dim contrastive_logits_temperature "
    "diversity_loss_weight num_codevector_groups num_codevectors_per_group num_negatives".split()
)


def to_arguments(fields):
    """Our arguments for the special fields."""
    number = fields["num_feat_extract_layers"]
    if number is not None and number != len(fields["conv_dim"]):
        raise ValueError(
            f"num_feat_extract_layers is {number!r}, but conv_dim has {len(fields['conv_dim'])}."
        )
    return {"activation": activation_argument("hidden_act", fields["hidden_act"])}


def to_fields(backbone):
    """The special fields of our backbone."""
    return {
        "hidden_act": activation_field(backbone.activation),
        "feat_extract_activation": "gelu",
        "num_feat_extract_layers": len(backbone.conv_dims),
        "mask_time_prob": 0.05,  # above 0: theirs then has a mask token, as ours has
        "mask_feature_prob": 0.0,
    }


def _optional(fields):
    masks = fields["mask_time_prob"] > 0 or fields["mask_feature_prob"] > 0
    return () if masks else ("mask_token.embedding",)


SPEECH = HuggingFaceModel(
    model_type="data2vec-audio",
    architecture="Data2VecAudioModel",
    prefix="data2vec_audio.",
    backbone_class=Data2VecSpeechBackbone,
    keys=KEYS,
    arguments=ARGUMENTS,
    special=SPECIAL,
    required=REQUIRED,
    ignored=IGNORED,
    ours={"padding": "reference", "feature_grad_mult": 1.0},
    constants="",
    to_arguments=to_arguments,
    to_fields=to_fields,
    sizes=lambda fields: {},
    optional=_optional,
)
