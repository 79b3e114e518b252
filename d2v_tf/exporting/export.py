"""`d2v_tf.export`: a model as TensorFlow Serving loads it."""

import functools
import os

from d2v_tf.backbones.backbone import Data2VecBackbone
from d2v_tf.backbones.speech import Data2VecSpeechBackbone
from d2v_tf.backbones.text import Data2VecTextBackbone
from d2v_tf.backbones.vision import Data2VecVisionBackbone
from d2v_tf.exporting.image_requests import image_requests
from d2v_tf.exporting.outputs import label_names
from d2v_tf.exporting.requests import ExportError
from d2v_tf.exporting.saved_model import check_version, signatures_of, write_version
from d2v_tf.exporting.source import (
    check_precision,
    load_model,
    own_preprocessing,
    read_preprocessing,
)
from d2v_tf.exporting.speech_requests import MAX_SECONDS, speech_requests
from d2v_tf.exporting.text_requests import text_requests
from d2v_tf.exporting.warmup import import_serving_api, write_warmup
from d2v_tf.interop.heads import head_of
from d2v_tf.interop.preprocessing import load_preprocessing
from d2v_tf.interop.run_recipe import answers_pairs

MOST_SECONDS = 86_400.0  # a day; a number of samples has to fit 31 bits


def export(
    model,
    folder,
    preprocessing=None,
    version=None,
    precision=None,
    pairs=None,
    max_seconds=None,
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
        preprocessing: optional; what `load_preprocessing` gives, or a folder that has it. By
            default that of a task's own preprocessor, then that beside a path's model; of speech
            `Data2VecAudioConverter()` where there is none.
        version: optional int. One more than the highest in the folder by default.
        precision: `"float32"` or `"bfloat16"`, in which a path's model computes; its weights and
            its answers are float32. Defaults to `"float32"`.
        pairs: optional bool. Whether a text model is asked about pairs of texts. By default its
            preprocessor or the run's `config.yaml` says it, and without them it is not.
        max_seconds: optional float. The longest waveform that a speech model takes. Defaults to 60.
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
    # What can be refused at once comes first: reading and tracing a large model takes a minute.
    if max_seconds is not None and not 0 < max_seconds < MOST_SECONDS:
        raise ExportError(f"max_seconds: {max_seconds:g} is not between 0 and {MOST_SECONDS:g}.")
    folder = os.fspath(folder)
    check_version(folder, version)
    if warmup:
        import_serving_api()
    path = os.fspath(model) if isinstance(model, str | os.PathLike) else None
    if path is not None:
        check_precision(precision or "float32")
    elif precision is not None:
        raise ExportError("precision: only for a path; a model has its own already.")
    if isinstance(preprocessing, str | os.PathLike):
        preprocessing = read_preprocessing(os.fspath(preprocessing))

    if path is not None:
        model = load_model(path, precision or "float32", say)
    if preprocessing is None:
        preprocessing = own_preprocessing(model)
    if preprocessing is None and path is not None:
        preprocessing = load_preprocessing(path)
    if pairs is None and isinstance(getattr(model, "backbone", model), Data2VecTextBackbone):
        pairs = answers_pairs(model, path)
    requests = requests_for(model, preprocessing, bool(pairs), max_seconds)
    say(f"asked about {_asked_about(model, pairs, max_seconds)}")

    signatures = signatures_of(model, requests)
    name = os.path.basename(os.path.normpath(folder))
    write_more = functools.partial(write_warmup, name, signatures) if warmup else None
    labels = label_names(model) if head_of(model) else None
    return write_version(folder, version, signatures, labels, write_more)


def requests_for(model, preprocessing, pairs=False, max_seconds=None):
    """Every way to ask a model: list of `Requests`, the usual one first.

    Args:
        model: `Data2VecBackbone`, or a task on one.
        preprocessing: what `load_preprocessing` gives.
        pairs, max_seconds: as for `export`.

    Raises:
        ExportError: names what does not fit.
    """
    backbone = getattr(model, "backbone", model)
    if not isinstance(backbone, Data2VecBackbone):
        raise ExportError(f"model must be a backbone, or a task on one. Received: {model}")
    is_speech = isinstance(backbone, Data2VecSpeechBackbone)
    if pairs and not isinstance(backbone, Data2VecTextBackbone):
        raise ExportError("pairs: only a text model is asked about pairs.")
    if max_seconds is not None and not is_speech:
        raise ExportError("max_seconds: only a speech model is asked by what has seconds.")
    if isinstance(backbone, Data2VecVisionBackbone):
        return image_requests(backbone, preprocessing)
    if is_speech:
        return speech_requests(backbone, preprocessing, max_seconds)
    return text_requests(model, preprocessing, pairs)


def _asked_about(model, pairs, max_seconds):
    backbone = getattr(model, "backbone", model)
    if isinstance(backbone, Data2VecVisionBackbone):
        return "images"
    if isinstance(backbone, Data2VecSpeechBackbone):
        return f"speech of at most {MAX_SECONDS if max_seconds is None else max_seconds:g} seconds"
    return "pairs of texts" if pairs else "texts"
