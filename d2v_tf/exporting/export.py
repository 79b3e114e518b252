"""`d2v_tf.export`: a model as TensorFlow Serving loads it."""

import os

from d2v_tf.backbones.backbone import Data2VecBackbone
from d2v_tf.backbones.speech import Data2VecSpeechBackbone
from d2v_tf.backbones.vision import Data2VecVisionBackbone
from d2v_tf.exporting.image_requests import image_requests
from d2v_tf.exporting.outputs import label_names
from d2v_tf.exporting.requests import ExportError
from d2v_tf.exporting.saved_model import signatures_of, write_version
from d2v_tf.exporting.speech_requests import speech_requests
from d2v_tf.exporting.text_requests import text_requests
from d2v_tf.exporting.warmup import warmup_writer
from d2v_tf.interop.heads import head_of
from d2v_tf.interop.loading import has_head, load_backbone, load_task
from d2v_tf.interop.preprocessing import load_preprocessing
from d2v_tf.interop.run_recipe import trained_on_pairs

PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def export(
    model,
    folder,
    preprocessing=None,
    version=None,
    precision=None,
    pairs=None,
    warmup=True,
    say=print,
):
    """Writes a SavedModel that takes what clients have: files of images and sounds, and strings.

    It needs nothing but TensorFlow, and for texts tensorflow-text, whose operations TensorFlow
    Serving has. What makes the backbone's input is in it, by the functions of the training. The
    batch is free in every signature.

    Args:
        model: str, what `load_backbone` or `load_task` reads; or a backbone or a task.
        folder: str. Of the model on the server; its versions are folders in it.
        preprocessing: what `load_preprocessing` gives, of a model that is not a path.
        version: optional int. One more than the highest in the folder by default.
        precision: `"float32"` or `"bfloat16"`, in which a path's model computes; its weights and
            its answers are float32. Defaults to `"float32"`.
        pairs: optional bool. Whether a text model is asked about pairs of texts. By default a run's
            `config.yaml` says it, and without one it is not.
        warmup: bool. Whether to write requests for the server to warm up with, which needs
            tensorflow-serving-api.
        say: callable(str), called with a line on what was read.

    Returns:
        str, the path of the version.

    Raises:
        ExportError, WeightsError: name what does not fit.

    Example:
    ```python
    d2v_tf.export("runs/cifar10_finetuned", "served/cifar10")  # served/cifar10/1
    served = tf.saved_model.load("served/cifar10/1").signatures["serving_default"]
    served(image_bytes=tf.constant([open("cat.jpg", "rb").read()]))["label"]
    ```
    """
    if not isinstance(model, str | os.PathLike):
        if precision is not None:
            raise ExportError("precision: only for a path; a model has its own already.")
    else:
        path = os.fspath(model)
        if pairs is None:
            pairs = trained_on_pairs(path)
        preprocessing = load_preprocessing(path) if preprocessing is None else preprocessing
        model = load_model(path, precision or "float32", say)
    requests = requests_for(model, preprocessing, bool(pairs))
    signatures = signatures_of(model, requests)
    name = os.path.basename(os.path.normpath(folder))
    write_more = warmup_writer(name, signatures) if warmup else lambda folder: None
    labels = label_names(model) if head_of(model) else None
    return write_version(os.fspath(folder), version, signatures, labels, write_more)


def load_model(path, precision="float32", say=print):
    """Reads a task, or a backbone where there is no head.

    Args:
        path: str. What `load_backbone` or `load_task` reads.
        precision: `"float32"` or `"bfloat16"`.
        say: callable(str), called with what it is.
    """
    if precision not in PRECISIONS:
        raise ExportError(f"precision: {precision!r} is none of {', '.join(PRECISIONS)}.")
    load = load_task if has_head(path) else load_backbone
    model = load(path, dtype=PRECISIONS[precision], verbose=False)
    say(f"{path}: {type(model).__name__}, {model.count_params():,} parameters")
    return model


def requests_for(model, preprocessing, pairs=False):
    """Every way to ask a model: list of `Requests`, the usual one first."""
    backbone = getattr(model, "backbone", model)
    if not isinstance(backbone, Data2VecBackbone):
        raise ExportError(f"model must be a backbone, or a task on one. Received: {model}")
    if isinstance(backbone, Data2VecVisionBackbone):
        make = image_requests
    elif isinstance(backbone, Data2VecSpeechBackbone):
        make = speech_requests
    else:
        return text_requests(model, preprocessing, pairs)
    if pairs:
        raise ExportError("pairs: only a text model is asked about pairs.")
    return make(backbone, preprocessing)
