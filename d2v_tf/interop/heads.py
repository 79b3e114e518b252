"""Heads of Hugging Face's models, key by key and field by field."""

import dataclasses
from collections.abc import Callable

from d2v_tf.finetuning.audio_classifier import Data2VecAudioClassifier
from d2v_tf.finetuning.image_classifier import Data2VecImageClassifier
from d2v_tf.finetuning.text_classifier import Data2VecTextClassifier
from d2v_tf.interop.layouts import SAME, TRANSPOSED

MULTI_LABEL = "multi_label_classification"
REGRESSION = "regression"


@dataclasses.dataclass(frozen=True)
class Head:
    """All that is known of one model with a head.

    Attributes:
        task_class: class of ours.
        keys: the key map of the head, see `d2v_tf.interop.key_map`; from the task on.
        to_arguments: (dict of all fields, folder) -> dict of the task's arguments. Raises
            `ValueError`.
        to_fields: task -> dict of fields. Raises `ValueError`.
    """

    task_class: type
    keys: tuple
    to_arguments: Callable
    to_fields: Callable


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
    kind = MULTI_LABEL if multi_label else "single_label_classification"
    return {
        "architectures": [architecture],
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "problem_type": REGRESSION if task.num_classes == 1 and not multi_label else kind,
    }


def _refuse_multi_label(config):
    if config.get("problem_type") == MULTI_LABEL:
        raise ValueError(
            f"problem_type is {MULTI_LABEL!r}, which is supported for audio only. Read the "
            "backbone by load_backbone."
        )


def _image_arguments(config, folder):
    _refuse_multi_label(config)
    pooling = "mean" if config.get("use_mean_pooling", True) else "token"
    return {**_classes(config), "pooling": pooling}


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
    return {
        **_classes(config),
        "multi_label": config.get("problem_type") == MULTI_LABEL,
        "projection_dim": config.get("classifier_proj_size", 256),
    }


def _audio_fields(task):
    if task.projection_dim is None:
        raise ValueError("projection_dim=None: there, frames are always projected.")
    fields = _class_fields(task, AUDIO, task.multi_label)
    return {**fields, "classifier_proj_size": task.projection_dim}


def _text_arguments(config, folder):
    _refuse_multi_label(config)
    dropout = config.get("classifier_dropout")
    if dropout is None:
        dropout = config.get("hidden_dropout_prob", 0.1)
    return {**_classes(config), "dropout": dropout}


def _text_fields(task):
    return {**_class_fields(task, TEXT), "classifier_dropout": task.dropout}


IMAGE = "Data2VecVisionForImageClassification"
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
