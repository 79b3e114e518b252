"""What is exported: a model of a path, what makes its input, and whether texts come in pairs."""

import os

from d2v_tf.data.tokenization import FILES, load_tokenizer
from d2v_tf.exporting.requests import ExportError
from d2v_tf.interop.loading import has_head, load_backbone, load_task
from d2v_tf.interop.preprocessing import load_preprocessing

PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
CONVERTERS = ("image_converter", "audio_converter", "tokenizer")


def check_precision(precision):
    """Refuses what is no name of a precision."""
    if precision not in PRECISIONS:
        raise ExportError(f"precision: {precision!r} is none of {', '.join(PRECISIONS)}.")


def load_model(path, precision="float32", say=print):
    """Reads a task, or a backbone where there is no head.

    Args:
        path: str. What `load_backbone` or `load_task` reads.
        precision: `"float32"` or `"bfloat16"`.
        say: callable(str), called with what it is.
    """
    check_precision(precision)
    load = load_task if has_head(path) else load_backbone
    model = load(path, dtype=PRECISIONS[precision], verbose=False)
    say(f"{path}: {type(model).__name__}, {model.count_params():,} parameters")
    return model


def read_preprocessing(folder):
    """What makes a model's input, of another folder than the model's.

    Args:
        folder: str. What `load_preprocessing` reads; or one of a tokenizer and nothing else, as
            `tools/prepare.py` and fairseq leave it.

    Raises:
        ExportError: where there is nothing of the kind.
    """
    places = [os.path.join(folder, name, "config.json") for name in ("", "preset")]
    if not any(map(os.path.isfile, places)) and _has_tokenizer(folder):
        return load_tokenizer(folder).in_graph()
    layer = load_preprocessing(folder)
    if layer is None:
        raise ExportError(
            f"--preprocessing: {folder} has neither settings of images or audio nor a tokenizer."
        )
    return layer


def _has_tokenizer(folder):
    return any(all(os.path.isfile(os.path.join(folder, n)) for n in names) for names in FILES)


def own_preprocessing(model):
    """The converter or the tokenizer of a task's own preprocessor; `None` where it has none."""
    preprocessor = getattr(model, "preprocessor", None)
    layers = (getattr(preprocessor, name, None) for name in CONVERTERS)
    return next((layer for layer in layers if layer is not None), None)
