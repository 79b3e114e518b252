"""Heads of Hugging Face's models, key by key and field by field."""

import dataclasses
import os
from collections.abc import Callable

from d2v_tf.finetuning.audio_classifier import Data2VecAudioClassifier
from d2v_tf.finetuning.ctc import Data2VecSpeechCTC
from d2v_tf.finetuning.image_classifier import Data2VecImageClassifier
from d2v_tf.finetuning.letters import UNKNOWN, WORD_END
from d2v_tf.finetuning.text_classifier import Data2VecTextClassifier
from d2v_tf.interop.json_files import read_json
from d2v_tf.interop.layouts import SAME, TRANSPOSED

MULTI_LABEL = "multi_label_classification"
SINGLE_LABEL = "single_label_classification"
REGRESSION = "regression"
# Fields of a CTC tokenizer's settings, with the values that `letters` has.
LETTERS_REQUIRED = {"unk_token": UNKNOWN, "word_delimiter_token": WORD_END}


@dataclasses.dataclass(frozen=True)
class Head:
    """All that is known of one model with a head.

    Attributes:
        task_class: class of ours.
        keys: the key map of the head, see `d2v_tf.interop.key_map`; from the task on.
        to_arguments: (dict of all fields, folder) -> dict of the task's arguments. Raises
            `ValueError`.
        to_fields: task -> dict of fields. Raises `ValueError`.
        to_files: task -> dict of the name of a further file to its JSON content.
    """

    task_class: type
    keys: tuple
    to_arguments: Callable
    to_fields: Callable
    to_files: Callable = lambda task: {}


def head_of(model):
    """The `Head` of a task, or `None`."""
    return next((head for head in HEADS.values() if isinstance(model, head.task_class)), None)


def head_weights(task):
    """The variables of a task that are not its backbone's."""
    inside = {id(weight) for weight in task.backbone.weights}
    return [weight for weight in task.weights if id(weight) not in inside]


def _dense(ours, theirs):
    return (
        (f"{ours}.kernel", TRANSPOSED, f"{theirs}.weight"),
        (f"{ours}.bias", SAME, f"{theirs}.bias"),
    )


def _norm(ours, theirs):
    return (
        (f"{ours}.gamma", SAME, f"{theirs}.weight"),
        (f"{ours}.beta", SAME, f"{theirs}.bias"),
    )


def _classes(config):
    """`num_classes` and, unless they are only numbered, `class_names`."""
    names = config.get("id2label")
    if names is None:
        return {"num_classes": config.get("num_labels", 2)}
    try:
        names = [names[key] for key in sorted(names, key=int)]
    except (TypeError, ValueError, AttributeError):
        raise ValueError(f"id2label is {names!r}; numbers with names are needed.") from None
    if names == [f"LABEL_{i}" for i in range(len(names))]:
        return {"num_classes": len(names)}
    return {"num_classes": len(names), "class_names": names}


def _class_fields(task, architecture, multi_label=False):
    names = task.class_names or [f"LABEL_{i}" for i in range(task.num_classes)]
    kind = MULTI_LABEL if multi_label else SINGLE_LABEL
    return {
        "architectures": [architecture],
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "problem_type": REGRESSION if task.num_classes == 1 and not multi_label else kind,
    }


def _check_problem(config, num_classes, multi_label=False):
    """Refuses a loss that the task would not be compiled with; `None` is decided by the classes."""
    kind = config.get("problem_type")
    kinds = (REGRESSION,) if num_classes == 1 else (SINGLE_LABEL,)
    if multi_label:
        kinds = (*kinds, MULTI_LABEL)
    if kind is not None and kind not in kinds:
        raise ValueError(
            f"problem_type is {kind!r} with {num_classes} labels, which is not supported; only "
            f"{' or '.join(map(repr, kinds))} is. Read the backbone by load_backbone."
        )


def _image_arguments(config, folder):
    classes = _classes(config)
    _check_problem(config, classes["num_classes"])
    pooling = "mean" if config.get("use_mean_pooling", True) else "token"
    return {**classes, "pooling": pooling}


def _image_fields(task):
    if (task.pooling == "mean") != (task.backbone.final_norm is None):
        has = "a" if task.backbone.final_norm is not None else "no"
        raise ValueError(
            f"pooling={task.pooling!r} with {has} final_norm of the backbone: there, the mean has "
            "none before it, and the class token has one."
        )
    return _class_fields(task, IMAGE)


def _audio_arguments(config, folder):
    if config.get("use_weighted_layer_sum", False):
        raise ValueError("use_weighted_layer_sum is True, which is not supported; only False is.")
    classes = _classes(config)
    _check_problem(config, classes["num_classes"], multi_label=True)
    return {
        **classes,
        "multi_label": config.get("problem_type") == MULTI_LABEL,
        "projection_dim": config.get("classifier_proj_size", 256),
    }


def _audio_fields(task):
    if task.projection_dim is None:
        raise ValueError("projection_dim=None: there, frames are always projected.")
    fields = _class_fields(task, AUDIO, task.multi_label)
    return {**fields, "classifier_proj_size": task.projection_dim}


def _text_arguments(config, folder):
    classes = _classes(config)
    _check_problem(config, classes["num_classes"])
    dropout = config.get("classifier_dropout")
    if dropout is None:
        dropout = config.get("hidden_dropout_prob", 0.1)
    return {**classes, "dropout": dropout}


def _text_fields(task):
    if task.pooling != "token":
        raise ValueError(f"pooling={task.pooling!r}: there, the head is on the first token.")
    return {**_class_fields(task, TEXT), "classifier_dropout": task.dropout}


def _ctc_arguments(config, folder):
    path = os.path.join(folder, "vocab.json")
    if not os.path.isfile(path):
        raise ValueError(
            f"{path} is missing, which says what letter each logit stands for. Without the head, "
            "load_backbone and tools/convert.py --nohead read it."
        )
    numbers = read_json(path)
    size, blank = config.get("vocab_size", 32), config.get("pad_token_id", 0)
    if sorted(numbers.values(), key=str) != sorted(range(size), key=str):
        raise ValueError(f"{path} has not the numbers from 0 to {size - 1}, vocab_size - 1.")
    if blank != 0:
        raise ValueError(
            f"pad_token_id, the blank, is {blank!r}, which is not supported; only 0 is."
        )
    path = os.path.join(folder, "tokenizer_config.json")
    settings = read_json(path) if os.path.isfile(path) else {}
    for field, value in LETTERS_REQUIRED.items():
        if settings.get(field, value) != value:
            raise ValueError(
                f"{path}: {field} is {settings[field]!r}; only {value!r} is supported."
            )
    masked = config.get("apply_spec_augment", True)
    return {
        "vocabulary": sorted(numbers, key=numbers.get),
        "time_mask_ratio": config.get("mask_time_prob", 0.05) if masked else 0.0,
        "time_mask_length": config.get("mask_time_length", 10),
        "channel_mask_ratio": config.get("mask_feature_prob", 0.0) if masked else 0.0,
        "channel_mask_length": config.get("mask_feature_length", 10),
        "dropout": config.get("final_dropout", 0.1),
    }


def _ctc_fields(task):
    masked = task.time_mask_ratio > 0 or task.channel_mask_ratio > 0
    return {
        "architectures": [CTC],
        "vocab_size": len(task.vocabulary),
        "pad_token_id": 0,
        "apply_spec_augment": masked,
        "mask_time_prob": task.time_mask_ratio if masked else 0.05,  # without, no mask token
        "mask_time_length": task.time_mask_length,
        "mask_feature_prob": task.channel_mask_ratio,
        "mask_feature_length": task.channel_mask_length,
        "final_dropout": task.dropout,
    }


def _ctc_files(task):
    return {
        "vocab.json": {entry: i for i, entry in enumerate(task.vocabulary)},
        "tokenizer_config.json": {
            "tokenizer_class": "Wav2Vec2CTCTokenizer",
            "pad_token": task.vocabulary[0],
            "unk_token": UNKNOWN,
            "word_delimiter_token": WORD_END,
            "do_lower_case": False,
        },
    }


IMAGE = "Data2VecVisionForImageClassification"
CTC = "Data2VecAudioForCTC"
AUDIO = "Data2VecAudioForSequenceClassification"
TEXT = "Data2VecTextForSequenceClassification"
HEADS = {
    IMAGE: Head(
        Data2VecImageClassifier,
        (
            *_norm("pooled_norm", "data2vec_vision.pooler.layernorm"),
            *_dense("output_dense", "classifier"),
        ),
        _image_arguments,
        _image_fields,
    ),
    AUDIO: Head(
        Data2VecAudioClassifier,
        (*_dense("projection", "projector"), *_dense("output_dense", "classifier")),
        _audio_arguments,
        _audio_fields,
    ),
    CTC: Head(
        Data2VecSpeechCTC,
        _dense("head", "lm_head"),
        _ctc_arguments,
        _ctc_fields,
        _ctc_files,
    ),
    TEXT: Head(
        Data2VecTextClassifier,
        (
            *_dense("pooled_dense", "classifier.dense"),
            *_dense("output_dense", "classifier.out_proj"),
        ),
        _text_arguments,
        _text_fields,
    ),
}
