"""The files that data2vec was published in: fairseq's `.pt` for speech and text, BEiT's `.pth`."""

import dataclasses
import re
import types

from d2v_tf.backbones.backbone import Data2VecBackbone
from d2v_tf.interop.beit_vision import BEIT_VISION
from d2v_tf.interop.fairseq_config import model_fields
from d2v_tf.interop.fairseq_speech import FAIRSEQ_SPEECH
from d2v_tf.interop.fairseq_text import FAIRSEQ_TEXT, RENAMED
from d2v_tf.interop.key_map import LoadReport, WeightsError, expand, load_entries
from d2v_tf.interop.original_model import OriginalModel, Shapes
from d2v_tf.interop.pickled import StateDict, StoredTensor, TorchFile

MODELS = (FAIRSEQ_SPEECH, FAIRSEQ_TEXT, BEIT_VISION)
# Where a file keeps its state dict: fairseq and BEiT, and BEiT under DeepSpeed.
STATES = ("model", "module")
# What keys of a teacher begin with, or go on with behind a prefix.
TEACHERS = ("_ema.", "model_ema.")


@dataclasses.dataclass(frozen=True)
class Original:
    """A file, opened.

    Attributes:
        model: `OriginalModel`. What it is a file of.
        tensors: `StateDict`.
        prefix: str. What the model's keys begin with in this file.
        backbone: of ours, with the file's weights.
        report: `LoadReport`.
        sizes: dict of ints for the layouts.
    """

    model: OriginalModel
    tensors: StateDict
    prefix: str
    backbone: Data2VecBackbone
    report: LoadReport
    sizes: dict

    def teacher(self):
        """The teacher, as a backbone of which only the encoder was read.

        Returns:
            (backbone, tuple of the keys that it was read from); `(None, ())` where the file has no
            teacher.

        Raises:
            WeightsError: where it has one that does not fit the student.
        """
        if not _teacher_keys(self.tensors.keys()):
            return None, ()
        backbone = type(self.backbone).from_config(self.backbone.get_config())
        rows = [
            (ours, layout, *(self.model.teacher(self.prefix, key) for key in theirs))
            for ours, layout, *theirs in self.model.keys
            if ours.startswith("encoder.")
        ]
        blocks = types.SimpleNamespace(encoder=backbone.encoder, weights=backbone.encoder.weights)
        mapped, _ = load_entries(expand(rows, blocks), self.tensors, self.sizes)
        return backbone, tuple(key for keys in mapped.values() for key in keys)

    def head(self):
        """The linear layers of the regression head.

        Returns:
            (list of arrays, kernel and bias of each, tuple of their keys); both empty where the
            file has no such head.
        """
        keys = _head_keys(self.model, self.tensors, self.prefix)
        return [self.tensors.read(key).T for key in keys], keys  # a matrix is [out, in] there


def open_original(path, dtype=None):
    """Reads a backbone from a file of fairseq's or BEiT's data2vec.

    Nothing in the file is executed, and neither PyTorch nor fairseq is needed. The architecture is
    what the tensors' shapes show; the configuration in the file is held against it, and gives what
    shapes do not show.

    Args:
        path: str. A `.pt` file of fairseq's data2vec audio or text; a `.pth` file of BEiT's
            data2vec vision, or DeepSpeed's `mp_rank_00_model_states.pt`; of a model that was
            pre-trained only, or fine-tuned.
        dtype: optional dtype policy or its name.

    Returns:
        `Original`.

    Raises:
        WeightsError: names what does not fit.
    """
    file = TorchFile(path)
    state, fields = _find_state(file)
    for pattern, name in RENAMED:
        state = {re.sub(pattern, name, key): value for key, value in state.items()}
    others = [key for key, value in state.items() if not isinstance(value, StoredTensor)]
    tensors = StateDict(file, {k: v for k, v in state.items() if k not in others})
    model, prefix = _find_model(path, tensors)
    shapes = Shapes(tensors, prefix)
    arguments, sizes, assumed = model.architecture(shapes, fields)
    try:
        backbone = model.backbone_class(**arguments, dtype=dtype)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from None
    mapped, missing = load_entries(
        expand(model.keys, backbone), tensors, sizes, optional=model.optional, prefix=prefix
    )
    used = {key for keys in mapped.values() for key in keys}
    rest = sorted(set(tensors.keys()) - used)
    constants = [key for key in rest if key.endswith(model.constants)] if model.constants else []
    pretraining = [*_teacher_keys(rest), *_head_keys(model, tensors, prefix)]
    pretraining = [key for key in pretraining if key not in constants]
    unused = [key for key in rest if key not in constants and key not in pretraining]
    report = LoadReport(
        str(path),
        model.kind,
        mapped,
        tuple([*unused, *others]),
        tuple(missing),
        tuple(constants),
        tuple(pretraining),
        assumed,
    )
    return Original(model, tensors, prefix, backbone, report, sizes)


def _find_state(file):
    """(dict of key to what it holds, nested dicts as one; dict of the configuration's fields)."""
    content = file.content
    if not isinstance(content, dict):
        raise WeightsError(f"{file.name}: it holds no dict, which a checkpoint is.")
    name = next((name for name in STATES if isinstance(content.get(name), dict)), None)
    state, fields = (content, {}) if name is None else (content[name], model_fields(content))
    flat = {}
    for key, value in state.items():
        # A teacher is a state dict within the state dict.
        for inner, tensor in value.items() if isinstance(value, dict) else [(None, value)]:
            flat[str(key) if inner is None else f"{key}.{inner}"] = tensor
    if name is not None and isinstance(content.get("model_ema"), dict):
        flat |= {f"model_ema.{key}": tensor for key, tensor in content["model_ema"].items()}
    return flat, fields


def _find_model(path, tensors):
    """(`OriginalModel`, prefix of its keys)."""
    keys = [key for key in tensors.keys() if not _teacher_keys([key])]
    if any("modality_encoders." in key for key in keys):
        raise WeightsError(f"{path}: it is of data2vec 2.0, which is not read; only 1.0 is.")
    found = [
        (model, key.removesuffix(model.mark))
        for model in MODELS
        for key in keys
        if key == model.mark or key.endswith(f".{model.mark}")
    ]
    if len(found) != 1:
        marks = ", ".join(f"{model.mark} ({model.kind})" for model in MODELS)
        names = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
        raise WeightsError(
            f"{path}: it holds {len(found)} models of data2vec. It must have one of {marks}. Its "
            f"{len(keys)} tensors are {names or 'none'}"
        )
    return found[0]


def _teacher_keys(keys):
    return [key for key in keys if key.startswith(TEACHERS) or "._ema." in key]


def _head_keys(model, tensors, prefix):
    """Keys of the regression head's linear layers: a chain from the width to the width."""
    available = set(tensors.keys())
    for layers in model.heads:
        keys = [f"{prefix}{layer}.{name}" for layer in layers for name in ("weight", "bias")]
        if not available.issuperset(keys):
            continue
        weights = [tensors.shape(key) for key in keys[::2]]
        biases = [tensors.shape(key) for key in keys[1::2]]
        linear = all(len(shape) == 2 for shape in weights)
        if linear and [shape[:1] for shape in weights] == biases:
            widths = [weights[0][1], *(shape[0] for shape in weights)]
            inner = [shape[1] for shape in weights]
            if widths[:-1] == inner and widths[0] == widths[-1]:
                return tuple(keys)
    return ()
