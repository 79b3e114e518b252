"""One folder or file into another folder, weights and preprocessing."""

import os
import warnings

import keras_hub

from d2v_tf.interop.huggingface import save_huggingface
from d2v_tf.interop.key_map import WeightsError
from d2v_tf.interop.loading import has_head, load_task_with_report, load_with_report
from d2v_tf.interop.preprocessing import load_preprocessing

FORMATS = ("preset", "huggingface")


def convert(source, target, target_format="preset", image_size=None, head=True, say=print):
    """Reads a model or a backbone and writes it as a preset or a Hugging Face folder.

    What `d2v_tf.load_task` reads is converted with its head, anything else is a backbone.

    Args:
        source: str. A folder or a file.
        target: str. A folder, which must be new or empty.
        target_format: `"preset"` or `"huggingface"`.
        image_size: optional int. Side of the images of a vision backbone, where it is to change.
        head: bool. Whether a head comes along, where there is one.
        say: callable(str). Gets a line for everything that happened.

    Raises:
        WeightsError, DataError: name what does not fit.
    """
    if target_format not in FORMATS:
        raise WeightsError(f"--format: {target_format!r} is none of {', '.join(FORMATS)}.")
    if os.path.exists(target) and (not os.path.isdir(target) or os.listdir(target)):
        raise WeightsError(f"--to: {target} exists and is no empty folder. Give a new one.")
    image_shape = None if image_size is None else (image_size, image_size)
    load = load_task_with_report if head and has_head(source) else load_with_report
    model, report = load(source, image_shape=image_shape)
    say(report.summary())
    for key in (*report.unused, *report.pretraining):
        say(f"not the model's, not converted: {key}")
    preprocessing = load_preprocessing(source, image_shape=image_shape)
    if target_format == "preset":
        _save_preset(model, target, preprocessing)
    else:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)  # ours
            save_huggingface(model, target, preprocessing)
        for warning in caught:
            say(f"warning: {warning.message}")
    with_it = "without preprocessing, as the source has none"
    if preprocessing is not None:
        with_it = f"with its {type(preprocessing).__name__}"
    say(f"{target}: {type(model).__name__} as {target_format}, {with_it}")


def _save_preset(model, folder, preprocessing):
    """Writes a task, whose preprocessor is a part of it, or a backbone with the layer beside it."""
    model.save_to_preset(folder)
    if preprocessing is not None and not isinstance(model, keras_hub.models.Task):
        preprocessing.save_to_preset(folder)
