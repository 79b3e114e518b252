"""fairseq's `data2vec_audio` (`examples/data2vec/models/data2vec_audio.py`), key by key."""

from d2v_tf.backbones.speech import Data2VecSpeechBackbone
from d2v_tf.interop.fairseq_blocks import block_keys
from d2v_tf.interop.fairseq_config import read_fields, read_layers, read_num_heads
from d2v_tf.interop.key_map import WeightsError
from d2v_tf.interop.layouts import SAME, TRANSPOSED
from d2v_tf.interop.original_model import OriginalModel

CONV = "feature_extractor.conv_layers.{i}"
LAYER = "encoder.layers.{i}"

KEYS = (
    ("frontend.convs.{i}.kernel", TRANSPOSED, f"{CONV}.0.weight"),
    ("frontend.convs.{i}.bias", SAME, f"{CONV}.0.bias"),
    ("frontend.conv_norms.{i}.gamma", SAME, f"{CONV}.2.1.weight"),
    ("frontend.conv_norms.{i}.beta", SAME, f"{CONV}.2.1.bias"),
    ("frontend.feature_norm.gamma", SAME, "layer_norm.weight"),
    ("frontend.feature_norm.beta", SAME, "layer_norm.bias"),
    ("frontend.projection.kernel", TRANSPOSED, "post_extract_proj.weight"),
    ("frontend.projection.bias", SAME, "post_extract_proj.bias"),
    ("mask_token.embedding", SAME, "mask_emb"),
    ("positions.convs.{i}.kernel", TRANSPOSED, "encoder.pos_conv.{i}.0.weight"),
    ("positions.convs.{i}.bias", SAME, "encoder.pos_conv.{i}.0.bias"),
    ("positions.norm.gamma", SAME, "encoder.layer_norm.weight"),
    ("positions.norm.beta", SAME, "encoder.layer_norm.bias"),
    *block_keys(LAYER),
)
RATES = {
    "dropout": ("dropout", 0.1),
    "attention_dropout": ("attention_dropout", 0.1),
    "activation_dropout": ("activation_dropout", 0.0),
    "dropout_input": ("feature_dropout", 0.0),
    "encoder_layerdrop": ("layer_drop", 0.05),
    "feature_grad_mult": ("feature_grad_mult", 1.0),
}
REQUIRED = {
    "extractor_mode": ("layer_norm",),
    "layer_norm_first": (False,),
    "layer_type": ("transformer",),
    "activation_fn": ("gelu",),  # the exact one
    "conv_pos_batch_norm": (False,),
}
# No tensor shows strides; every published model has these kernels with these.
PUBLISHED_KERNELS = (10, 3, 3, 3, 3, 2, 2)
PUBLISHED_STRIDES = (5, 2, 2, 2, 2, 2, 2)


def architecture(shapes, fields):
    """The backbone's arguments, from shapes and from what they do not show."""
    if "encoder.pos_conv.0.weight_g" in shapes or "encoder.pos_conv.0.weight_v" in shapes:
        raise WeightsError(
            f"{shapes.name}: its positions are one weight-normalized convolution, wav2vec 2.0's; "
            "only data2vec's stack of them (pos_conv_depth 5) is read."
        )
    convs = [
        shapes.shape(f"{CONV.format(i=i)}.0.weight", 3)
        for i in range(shapes.count("feature_extractor.conv_layers."))
    ]
    depth = shapes.count("encoder.pos_conv.")
    hidden_dim, group_dim, position_kernel_size = shapes.shape("encoder.pos_conv.0.0.weight", 3)
    arguments = {
        "num_layers": shapes.count("encoder.layers."),
        "hidden_dim": hidden_dim,
        "intermediate_dim": shapes.shape("encoder.layers.0.fc1.weight", 2)[0],
        "conv_dims": tuple(shape[0] for shape in convs),
        "conv_kernel_sizes": tuple(shape[2] for shape in convs),
        "conv_bias": f"{CONV.format(i=0)}.0.bias" in shapes,
        "position_conv_layers": depth,
        "position_conv_kernel_size": position_kernel_size,
        "position_conv_groups": hidden_dim // group_dim,
        "padding": "reference",
    }
    visible = {
        "encoder_layers": arguments["num_layers"],
        "encoder_embed_dim": hidden_dim,
        "encoder_ffn_embed_dim": arguments["intermediate_dim"],
        "conv_bias": arguments["conv_bias"],
        "conv_pos_groups": arguments["position_conv_groups"],
        "pos_conv_depth": depth,
    }
    arguments |= read_fields(fields, shapes.name, visible, RATES, REQUIRED)
    strides, assumed = _strides(shapes.name, fields, arguments)
    heads, more = read_num_heads(fields, "encoder_attention_heads", hidden_dim, shapes.name)
    return {**arguments, "conv_strides": strides, "num_heads": heads}, {}, (*assumed, *more)


def _strides(name, fields, arguments):
    """(strides of the waveform's convolutions, what was assumed)."""
    kernels = arguments["conv_kernel_sizes"]
    if "conv_feature_layers" not in fields:
        if kernels != PUBLISHED_KERNELS:
            raise WeightsError(
                f"{name}: it does not say what strides its convolutions have, and their kernels, "
                f"{kernels}, are not the published models', {PUBLISHED_KERNELS}."
            )
        return PUBLISHED_STRIDES, (f"strides {PUBLISHED_STRIDES}, the published ones",)
    try:
        layers = read_layers(str(fields["conv_feature_layers"]))
    except ValueError as error:
        raise WeightsError(f"{name}: in its configuration, conv_feature_layers: {error}.") from None
    shown = list(zip(arguments["conv_dims"], kernels, strict=True))
    if [layer[:2] for layer in layers] != shown:
        raise WeightsError(
            f"{name}: in its configuration, conv_feature_layers has (channels, kernel, stride) "
            f"{layers} and its tensors show (channels, kernel) {shown}."
        )
    return tuple(layer[2] for layer in layers), ()


FAIRSEQ_SPEECH = OriginalModel(
    kind="a fairseq file (data2vec_audio)",
    backbone_class=Data2VecSpeechBackbone,
    mark="feature_extractor.conv_layers.0.0.weight",
    keys=KEYS,
    architecture=architecture,
    optional=(),
    constants=(),
    teacher=lambda prefix, key: f"{prefix}_ema.{key.removeprefix('encoder.')}",
    heads=(("final_proj",), ("final_proj.0",)),
)
