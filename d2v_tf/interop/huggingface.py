"""Hugging Face folders: `config.json` with weights, read and written."""

import dataclasses
import json
import os
import shutil

from safetensors.numpy import save_file

from d2v_tf.interop.heads import HEADS, head_of, head_weights
from d2v_tf.interop.huggingface_config import read_config, write_config
from d2v_tf.interop.huggingface_speech import SPEECH
from d2v_tf.interop.huggingface_text import TEXT
from d2v_tf.interop.huggingface_vision import VISION
from d2v_tf.interop.json_files import read_json
from d2v_tf.interop.key_map import (
    LoadReport,
    WeightsError,
    expand,
    export_entries,
    load_entries,
    surplus_keys,
)
from d2v_tf.interop.preprocessing import save_preprocessing
from d2v_tf.interop.tensor_files import open_tensors

MODELS = {model.model_type: model for model in (VISION, SPEECH, TEXT)}


def load_huggingface(folder, dtype=None):
    """Reads a backbone of type `data2vec-vision`, `data2vec-audio` or `data2vec-text`.

    A head's weights are not read; the report names them, and `load_task` reads them. A speech model
    gets `padding="reference"`, as published models were trained, unless we wrote the folder.

    Args:
        folder: str. Holds `config.json` and weights: `model.safetensors`, `pytorch_model.bin`, or
            several of either with their index.
        dtype: optional dtype policy or its name.

    Returns:
        (backbone, `LoadReport`).

    Raises:
        WeightsError: names the fields or the keys that do not fit.
    """
    path = os.path.join(folder, "config.json")
    config = read_json(path)
    model = MODELS.get(config.get("model_type"))
    if model is None:
        raise WeightsError(
            f"{path}: model_type is {config.get('model_type')!r}; only these are read: "
            f"{', '.join(MODELS)}."
        )
    arguments, fields = read_config(model, config, path)
    tensors = open_tensors(folder)
    try:
        backbone = model.backbone_class(**arguments, dtype=dtype)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from None
    prefix = model.prefix if any(k.startswith(model.prefix) for k in tensors.keys()) else ""
    mapped, missing = load_entries(
        expand(model.keys, backbone),
        tensors,
        model.sizes(fields),
        optional=model.optional(fields),
        prefix=prefix,
    )
    used = {key for keys in mapped.values() for key in keys}
    rest = sorted(set(tensors.keys()) - used)
    constants = [k for k in rest if model.constants and k.endswith(model.constants)]
    unused = [key for key in rest if key not in constants]
    surplus = surplus_keys(model.keys, unused, prefix)
    if surplus:
        raise WeightsError(
            f"{path}: its configuration has fewer layers than there are weights: "
            f"{', '.join(surplus)}."
        )
    if fields.get("type_vocab_size", 1) > 1:  # no input of ours has segments
        unused.append(f"{prefix}embeddings.token_type_embeddings.weight[1:]")
    kind = f"a Hugging Face folder ({model.model_type})"
    return backbone, LoadReport(
        folder, kind, mapped, tuple(unused), tuple(missing), tuple(constants)
    )


def save_huggingface(model, folder, preprocessing=None):
    """Writes what `transformers` loads back: `config.json` and `model.safetensors`.

    Weights are float32, and bit for bit the same when they are read again. What their
    configuration has no word for (a speech backbone's `padding` and `feature_grad_mult`) stands
    under `"d2v_tf"` in it: `d2v_tf.load_backbone` reads it, `transformers`, which always pads as
    the reference does, does not.

    Args:
        model: a `Data2VecBackbone`, or a task on one: a classifier or a CTC model.
        folder: str. Made if it does not exist; these files are overwritten.
        preprocessing: optional `Data2VecImageConverter`, `Data2VecAudioConverter` or
            `Data2VecTextTokenizer`. Written beside it, as theirs.

    Raises:
        WeightsError: for what theirs cannot be configured to equal; names the argument.
    """
    head = head_of(model)
    backbone = model if head is None else model.backbone
    kind = next((m for m in MODELS.values() if isinstance(backbone, m.backbone_class)), None)
    if kind is None:
        names = ", ".join(m.backbone_class.__name__ for m in MODELS.values())
        raise WeightsError(f"model must be one of {names}, or a task on one. Received: {model}")
    try:
        config = write_config(kind, backbone)
        if head is not None:
            config |= head.to_fields(model)
    except ValueError as error:
        raise WeightsError(
            f"{type(model).__name__} cannot be written for transformers: {error}"
        ) from None
    tensors = export_entries(expand(kind.keys, backbone), kind.sizes(config))
    if head is not None:
        tensors = {kind.prefix + key: tensor for key, tensor in tensors.items()}
        tensors |= export_entries(expand(head.keys, model, head_weights(model)), {})
    os.makedirs(folder, exist_ok=True)
    if preprocessing is not None:  # first: it may be refused
        save_preprocessing(preprocessing, folder, getattr(backbone, "max_sequence_length", None))
    files = {"config.json": config} | (head.to_files(model) if head is not None else {})
    for name, content in files.items():
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2, ensure_ascii=False)
            file.write("\n")
    paths = [os.path.join(folder, name) for name in ("config.json", "model.safetensors")]
    save_file(tensors, paths[1], metadata={"format": "pt"})
    shutil.copymode(*paths)  # else nobody but the writer may read it


def load_huggingface_task(folder, dtype=None):
    """Reads a model with a head that `heads.HEADS` knows.

    Args:
        folder: str. As `load_huggingface`.
        dtype: optional dtype policy or its name, of the backbone.

    Returns:
        (task, `LoadReport`).

    Raises:
        WeightsError: names what does not fit, or that there is no such head.
    """
    path = os.path.join(folder, "config.json")
    config = read_json(path)
    architecture = (config.get("architectures") or [None])[0]
    head = HEADS.get(architecture)
    if head is None:
        raise WeightsError(
            f"{path}: architectures is {architecture!r}, which has no head that is read; these "
            f"are: {', '.join(HEADS)}. A data2vec model is read without one by load_backbone."
        )
    backbone, report = load_huggingface(folder, dtype=dtype)
    try:
        task = head.task_class(backbone, **head.to_arguments(config, folder))
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from None
    entries = expand(head.keys, task, head_weights(task))
    mapped, _ = load_entries(entries, open_tensors(folder), {})
    used = {key for keys in mapped.values() for key in keys}
    report = dataclasses.replace(
        report,
        kind=f"a Hugging Face folder ({architecture})",
        mapped={**report.mapped, **mapped},
        unused=tuple(key for key in report.unused if key not in used),
    )
    return task, report
