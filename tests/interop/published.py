"""Random Hugging Face models, written as the files that data2vec was published in.

The inverse of what transformers' conversion scripts do, with objects of classes that are gone by
the time the file is read.
"""

import argparse
import collections
import contextlib
import enum
import re
import sys
import types

import pytest

from tests.parity.models import perturbed

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install transformers"
)

COMMON = {
    "num_hidden_layers": 2,
    "hidden_size": 12,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "attn_implementation": "eager",
}
SPEECH = {
    **COMMON,
    "conv_dim": (6, 7, 8),
    "conv_kernel": (10, 3, 2),
    "conv_stride": (5, 2, 2),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 3,
    "conv_pos_kernel_size": 5,
    "num_conv_pos_embedding_groups": 4,
}
TEXT = {
    **COMMON,
    "vocab_size": 30,
    "max_position_embeddings": 12,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
}
VISION = {
    **COMMON,
    "image_size": 12,
    "patch_size": 4,
    "use_mask_token": True,
    "use_mean_pooling": False,
    "layer_norm_eps": 1e-6,
    "layer_scale_init_value": 0.1,
}
# What stands in `cfg["model"]` of a speech file; "cfg" is nested so, and OmegaConf's or a dict.
SPEECH_FIELDS = {
    "_name": "data2vec_audio",
    "encoder_layers": 2,
    "encoder_embed_dim": 12,
    "encoder_ffn_embed_dim": 20,
    "encoder_attention_heads": 3,
    "conv_feature_layers": "[(6, 10, 5)] + [(7, 3, 2)] * 1 + [(8, 2, 2)]",
    "layer_norm_first": False,
    "dropout": 0.25,
    "attention_dropout": 0.125,
    "dropout_input": 0.0,
    "encoder_layerdrop": 0.05,
    "feature_grad_mult": 1.0,
    "conv_pos": 15,
    "pos_conv_depth": 3,
    "conv_pos_groups": 4,
    "mask_prob": 0.65,
}
TEXT_FIELDS = {
    "_name": "data2vec_text",
    "head_layers": 2,
    "transformer": {
        "activation_fn": "gelu",
        "dropout": 0.25,
        "attention_dropout": 0.125,
        "layernorm_embedding": True,
        "no_scale_embedding": True,
        "max_source_positions": 10,
        "encoder": {
            "embed_dim": 12,
            "ffn_embed_dim": 20,
            "layers": 2,
            "attention_heads": 3,
            "normalize_before": False,
            "learned_pos": True,
        },
    },
}
SPEECH_NAMES = (
    (r"^(feature_extractor\.conv_layers\.\d+)\.conv\.", r"\1.0."),
    (r"^(feature_extractor\.conv_layers\.\d+)\.layer_norm\.", r"\1.2.1."),
    (r"^feature_projection\.layer_norm\.", "layer_norm."),
    (r"^feature_projection\.projection\.", "post_extract_proj."),
    (r"^masked_spec_embed$", "mask_emb"),
    (r"^encoder\.pos_conv_embed\.layers\.(\d+)\.conv\.", r"encoder.pos_conv.\1.0."),
    (r"^(encoder\.layers\.\d+)\.attention\.", r"\1.self_attn."),
    (r"^(encoder\.layers\.\d+)\.layer_norm\.", r"\1.self_attn_layer_norm."),
    (r"\.feed_forward\.intermediate_dense\.", ".fc1."),
    (r"\.feed_forward\.output_dense\.", ".fc2."),
)
TEXT_NAMES = (
    (r"^embeddings\.word_embeddings\.", "encoder.sentence_encoder.embed_tokens."),
    (r"^embeddings\.position_embeddings\.", "encoder.sentence_encoder.embed_positions."),
    (r"^embeddings\.LayerNorm\.", "encoder.sentence_encoder.layernorm_embedding."),
    (r"^encoder\.layer\.", "encoder.sentence_encoder.layers."),
    (r"\.attention\.self\.query\.", ".self_attn.q_proj."),
    (r"\.attention\.self\.key\.", ".self_attn.k_proj."),
    (r"\.attention\.self\.value\.", ".self_attn.v_proj."),
    (r"\.attention\.output\.dense\.", ".self_attn.out_proj."),
    (r"\.attention\.output\.LayerNorm\.", ".self_attn_layer_norm."),
    (r"\.intermediate\.dense\.", ".fc1."),
    (r"\.output\.dense\.", ".fc2."),
    (r"\.output\.LayerNorm\.", ".final_layer_norm."),
)
VISION_NAMES = (
    (r"^embeddings\.(cls_token|mask_token)$", r"\1"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.relative_position_bias\.", "rel_pos_bias."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.attention\.relative_position_bias\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.lambda_(\d)$", r".gamma_\1"),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
)


def speech_model(**changes):
    config = transformers.Data2VecAudioConfig(**{**SPEECH, **changes})
    return perturbed(transformers.Data2VecAudioModel(config))


def text_model(**changes):
    config = transformers.Data2VecTextConfig(**{**TEXT, **changes})
    model = perturbed(transformers.Data2VecTextModel(config, add_pooling_layer=False))
    with torch.no_grad():  # fairseq has no segments
        model.embeddings.token_type_embeddings.weight.zero_()
    return model


def vision_model(positions="shared", **changes):
    kind = {
        "use_shared_relative_position_bias": positions == "shared",
        "use_relative_position_bias": positions == "per_block",
        "use_absolute_position_embeddings": positions == "absolute",
    }
    config = transformers.Data2VecVisionConfig(**{**VISION, **kind, **changes})
    return perturbed(transformers.Data2VecVisionModel(config, add_pooling_layer=False))


def renamed(model, names):
    state = collections.OrderedDict()
    for key, tensor in model.state_dict().items():
        for pattern, replacement in names:
            key = re.sub(pattern, replacement, key)
        state[key] = tensor
    return state


def speech_state(model, teacher=None):
    """fairseq's state dict; with a teacher, its encoder as `_ema`."""
    state = renamed(model, SPEECH_NAMES)
    if teacher is not None:
        encoder = renamed(teacher, SPEECH_NAMES)
        state["_ema"] = {
            key.removeprefix("encoder."): tensor
            for key, tensor in encoder.items()
            if key.startswith("encoder.")
        }
    return state


def text_state(model, teacher=None):
    state = renamed(model, TEXT_NAMES)
    state.pop("embeddings.token_type_embeddings.weight")
    state.pop("embeddings.position_ids", None)
    state["encoder.sentence_encoder.version"] = torch.tensor([3.0])
    if teacher is not None:
        start = "encoder.sentence_encoder."
        encoder = {k.removeprefix(start): v for k, v in text_state(teacher).items()}
        state["encoder._ema"] = encoder
    return state


def vision_state(model):
    """BEiT's state dict: one matrix for query, key and value."""
    state = renamed(model, VISION_NAMES)
    for i in range(model.config.num_hidden_layers):
        start = f"blocks.{i}.attention.attention."
        matrices = [state.pop(f"{start}{name}.weight") for name in ("query", "key", "value")]
        state[f"blocks.{i}.attn.qkv.weight"] = torch.cat(matrices)
        state[f"blocks.{i}.attn.q_bias"] = state.pop(f"{start}query.bias")
        state[f"blocks.{i}.attn.v_bias"] = state.pop(f"{start}value.bias")
    tokens = 1 + (model.config.image_size // model.config.patch_size) ** 2
    index = torch.zeros((tokens, tokens), dtype=torch.int64)
    if model.config.use_shared_relative_position_bias:
        state["rel_pos_bias.relative_position_index"] = index
    return state


def linear(*widths, seed=1):
    """Weights and biases of linear layers of these widths, from the first to the last."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(out, into, generator=generator), torch.randn(out, generator=generator))
        for into, out in zip(widths, widths[1:], strict=False)
    ]


@contextlib.contextmanager
def foreign_classes():
    """Classes of modules that exist only as long as the context."""
    made = {}

    def make(module, name, bases=(), **members):
        made[module] = made.get(module) or types.ModuleType(module)
        cls = type(name, bases, {"__module__": module, **members})
        setattr(made[module], name, cls)
        return cls

    foreign = types.SimpleNamespace(
        DictConfig=make("omegaconf.dictconfig", "DictConfig"),
        ListConfig=make("omegaconf.listconfig", "ListConfig"),
        AnyNode=make("omegaconf.nodes", "AnyNode"),
        Metadata=make("omegaconf.base", "ContainerMetadata"),
        Dictionary=make("fairseq.data.dictionary", "Dictionary"),
        Config=make("fairseq.models.wav2vec.wav2vec2", "Data2VecAudioConfig"),
    )
    foreign.Choice = enum.Enum("Choice", {"layer_norm": "layer_norm"}, module="fairseq.choices")
    made["fairseq.choices"] = types.ModuleType("fairseq.choices")
    made["fairseq.choices"].Choice = foreign.Choice
    parents = {name.rsplit(".", n)[0] for name in made for n in range(1, name.count(".") + 1)}
    modules = {**{name: types.ModuleType(name) for name in parents}, **made}
    sys.modules.update(modules)
    try:
        yield foreign
    finally:
        for name in modules:
            del sys.modules[name]


def omegaconf(foreign, fields, parent=None):
    """A `DictConfig` as OmegaConf pickles it: contents, metadata, and the way back up."""
    node = foreign.DictConfig()
    node.__dict__ |= {"_metadata": foreign.Metadata(), "_parent": parent, "_content": {}}
    for name, value in fields.items():
        if isinstance(value, dict):
            child = omegaconf(foreign, value, node)
        else:
            child = foreign.AnyNode()
            child.__dict__ |= {"_metadata": foreign.Metadata(), "_parent": node, "_val": value}
        node._content[name] = child
    return node


def write(path, state, config="omegaconf", fields=None, zipped=True, **more):
    """Saves a checkpoint with configurations of classes that only this process has, for now.

    Args:
        config: how it holds `fields`: "omegaconf", "dict", "dataclass" or "namespace"; "none".
    """
    fields = fields or {}
    with foreign_classes() as foreign:
        content = {"model": state, "args": None, "extra_state": {"epoch": 3, "best": None}}
        dictionary = foreign.Dictionary()
        dictionary.symbols = ["<s>", "<pad>"]
        content["task_state"] = {"target_dictionary": dictionary, "seen": {1, 2}}
        if "extractor_mode" in fields:
            fields = {**fields, "extractor_mode": foreign.Choice(fields["extractor_mode"])}
        if config == "omegaconf":
            cfg = {"model": fields, "task": {"data": "/checkpoint/someone/data", "normalize": True}}
            content["cfg"] = omegaconf(foreign, cfg)
        elif config == "dict":
            content["cfg"] = {"model": fields}
        elif config == "dataclass":
            node = foreign.Config()
            node.__dict__ |= fields
            content["cfg"] = {"model": node}
        elif config == "namespace":
            content["args"] = argparse.Namespace(**fields)
        torch.save({**content, **more}, path, _use_new_zipfile_serialization=zipped)
