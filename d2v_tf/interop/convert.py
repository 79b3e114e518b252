"""One folder or file into another folder, weights and preprocessing."""

import os
import warnings

from d2v_tf.interop.huggingface import save_huggingface
from d2v_tf.interop.key_map import WeightsError
from d2v_tf.interop.loading import load_with_report
from d2v_tf.interop.preprocessing import load_preprocessing

FORMATS = ("preset", "huggingface")


def convert(source, target, target_format="preset", image_size=None, say=print):
    """Reads what `d2v_tf.load_backbone` reads and writes it as a preset or a Hugging Face folder.

    Args:
        source: str. A folder or a file.
        target: str. A folder, which must be new or empty.
        target_format: `"preset"` or `"huggingface"`.
        image_size: optional int. Side of the images of a vision backbone, where it is to change.
        say: callable(str). Gets a line for everything that happened.

    Raises:
        WeightsError, DataError: name what does not fit.
    """
    if target_format not in FORMATS:
        raise WeightsError(f"--format: {target_format!r} is none of {', '.join(FORMATS)}.")
    if os.path.exists(target) and (not os.path.isdir(target) or os.listdir(target)):
        raise WeightsError(f"--to: {target} exists and is no empty folder. Give a new one.")
    image_shape = None if image_size is None else (image_size, image_size)
    backbone, report = load_with_report(source, image_shape=image_shape)
    say(report.summary())
    for key in (*report.unused, *report.pretraining):
        say(f"not the backbone's, not converted: {key}")
    preprocessing = load_preprocessing(source, image_shape=image_shape)
    if target_format == "preset":
        backbone.save_to_preset(target)
        if preprocessing is not None:
            preprocessing.save_to_preset(target)
    else:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)  # ours
            save_huggingface(backbone, target, preprocessing)
        for warning in caught:
            say(f"warning: {warning.message}")
    with_it = "without preprocessing, as the source has none"
    if preprocessing is not None:
        with_it = f"with its {type(preprocessing).__name__}"
    say(f"{target}: {type(backbone).__name__} as {target_format}, {with_it}")
