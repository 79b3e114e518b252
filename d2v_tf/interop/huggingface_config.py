"""Hugging Face's `config.json`: every field is honoured, of no effect here, or refused by name."""

import dataclasses
from collections.abc import Callable

from d2v_tf.interop.key_map import WeightsError

# Their names of functions that are the same to the last bit in exact arithmetic; ours.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "relu": "relu",
    "relu6": "relu6",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "mish": "mish",
    "linear": "linear",
}
# Fields of any model that would change it, with the values that do not.
REQUIRED = {
    "is_encoder_decoder": (False,),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "tie_encoder_decoder": (False,),
    "cross_attention_hidden_size": (None,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
}
# Fields of any model that do not change what the backbone computes.
IGNORED = frozenset(
    # Who wrote the file, for what, and with which precision; the heads and their labels.
    "model_type architectures transformers_version name_or_path auto_map custom_pipelines "
    "finetuning_task task_specific_params problem_type num_labels id2label label2id dtype "
    "torch_dtype torchscript use_bfloat16 tie_word_embeddings tokenizer_class prefix "
    # What a call returns and how it is computed.
    "output_attentions output_hidden_states return_dict use_cache attn_implementation "
    "chunk_size_feed_forward gradient_checkpointing "
    # How weights were initialized; special tokens, which the tokenizer knows.
    "initializer_range initializer_factor bos_token_id eos_token_id pad_token_id sep_token_id "
    "decoder_start_token_id "
    # How text is generated, which older files repeat.
    "max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty "
    "temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size "
    "encoder_no_repeat_ngram_size bad_words_ids num_return_sequences output_scores "
    "return_dict_in_generate forced_bos_token_id forced_eos_token_id remove_invalid_values "
    "exponential_decay_length_penalty suppress_tokens begin_suppress_tokens "
    "tf_legacy_loss".split()
)
# Where the arguments of ours stand that their configuration has no word for.
OURS = "d2v_tf"


@dataclasses.dataclass(frozen=True)
class HuggingFaceModel:
    """All that is known of one model type.

    Attributes:
        model_type, architecture: str. The configuration's name and the class without a head.
        prefix: str. What keys begin with in a model with a head.
        backbone_class: class of ours.
        keys: the key map, see `d2v_tf.interop.key_map`.
        arguments: dict of their field to (our argument, their default).
        special: dict of their field to its default; `to_arguments` translates these.
        required: dict of their field to the values that do not change the backbone.
        ignored: set of their fields that do not.
        ours: dict of our arguments that theirs have no field for, to the published models' values.
        constants: end of keys that hold no weights.
        to_arguments: dict of the special fields -> dict of our arguments. Raises `ValueError`.
        to_fields: backbone -> dict of the special fields. Raises `ValueError`.
        sizes: dict of all fields -> dict of ints for the layouts.
        optional: dict of all fields -> set of our variables that a file need not hold.
    """

    model_type: str
    architecture: str
    prefix: str
    backbone_class: type
    keys: tuple
    arguments: dict
    special: dict
    required: dict
    ignored: frozenset
    ours: dict
    constants: str
    to_arguments: Callable
    to_fields: Callable
    sizes: Callable
    optional: Callable


def read_config(model, config, path):
    """What a configuration says about the backbone.

    Args:
        model: `HuggingFaceModel`.
        config: dict. The content of `config.json`.
        path: str. The file, for messages.

    Returns:
        (dict of our backbone's arguments, dict of their fields with defaults filled in).

    Raises:
        WeightsError: names a field that is unknown or has a value that is not supported.
    """
    required = {**REQUIRED, **model.required}
    defaults = {field: default for field, (_, default) in model.arguments.items()}
    defaults |= model.special
    known = {*defaults, *required, *model.ignored, *IGNORED, OURS}
    unknown = sorted(field for field in config if field not in known and field[0] != "_")
    if unknown:
        raise WeightsError(
            f"{path}: unknown fields of {model.model_type}: {', '.join(unknown)}. If they do not "
            "change what the model computes, remove them from the file."
        )
    for field, values in required.items():
        if field in config and config[field] not in values:
            raise WeightsError(
                f"{path}: {field} is {config[field]!r}, which is not supported; only "
                f"{' or '.join(map(repr, values))} is."
            )
    fields = {field: config.get(field, default) for field, default in defaults.items()}
    for field, value in fields.items():
        if not is_like(value, defaults[field]):
            raise WeightsError(
                f"{path}: {field} is {value!r}; a value like {defaults[field]!r} is needed."
            )
        least = _least(field, defaults[field])
        numbers = value if isinstance(value, (list, tuple)) else [value]
        if least is not None and not all(number >= least for number in numbers):
            raise WeightsError(f"{path}: {field} is {value!r}; at least {least} is needed.")
    own = config.get(OURS, {})
    if not isinstance(own, dict) or set(own) - set(model.ours):
        raise WeightsError(f"{path}: {OURS} is {own!r}; it may hold {sorted(model.ours)}.")
    arguments = {ours: fields[field] for field, (ours, _) in model.arguments.items()}
    try:
        arguments |= model.to_arguments(fields)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from None
    return {**arguments, **model.ours, **own}, fields


def _least(field, default):
    """The least that a number may be: 1 for sizes and counts, 0 for rates; `None` for no number."""
    if isinstance(default, tuple):
        default = default[0]
    if isinstance(default, bool) or not isinstance(default, (int, float)):
        return None
    return 1 if isinstance(default, int) and field != "pad_token_id" else 0


def write_config(model, backbone):
    """The configuration of a backbone: a dict for `config.json`.

    Raises:
        ValueError: names an argument that theirs have no field for.
    """
    fields = {field: getattr(backbone, ours) for field, (ours, _) in model.arguments.items()}
    config = {
        "architectures": [model.architecture],
        "model_type": model.model_type,
        "dtype": "float32",
        **fields,
        **model.to_fields(backbone),
    }
    own = {name: getattr(backbone, name) for name in model.ours}
    if own != model.ours:
        config[OURS] = own
    return config


def activation_argument(field, value):
    """Our name of their activation."""
    if value not in ACTIVATIONS:
        raise ValueError(
            f"{field} is {value!r}, which is not supported; only {', '.join(ACTIVATIONS)} are."
        )
    return ACTIVATIONS[value]


def activation_field(value):
    """Their name of our activation."""
    names = [theirs for theirs, ours in ACTIVATIONS.items() if ours == value]
    if not names:
        known = ", ".join(sorted(set(ACTIVATIONS.values())))
        raise ValueError(f"activation={value!r} has no name there; only {known} have.")
    return names[0]


def is_like(value, default):
    """Whether a value has the default's type; a default of `None` takes any."""
    if default is None:
        return True
    if isinstance(value, bool) or isinstance(default, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    if isinstance(default, tuple):
        return isinstance(value, (list, tuple)) and all(is_like(v, 0) for v in value)
    return isinstance(value, type(default))
