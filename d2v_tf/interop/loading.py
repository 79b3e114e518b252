"""`load_backbone` and `load_task`: find out what a path is, and read it."""

import dataclasses
import os
import warnings

import keras

from d2v_tf.backbones.backbone import Data2VecBackbone
from d2v_tf.backbones.initializers import without_drawing
from d2v_tf.backbones.text import Data2VecTextBackbone
from d2v_tf.interop.heads import HEADS, head_weights
from d2v_tf.interop.huggingface import MODELS, load_huggingface, load_huggingface_task
from d2v_tf.interop.json_files import READABLE, find_folder, read_json
from d2v_tf.interop.key_map import LoadReport, WeightsError
from d2v_tf.interop.originals import open_original
from d2v_tf.interop.preprocessing import load_preprocessing
from d2v_tf.interop.resizing import resize_backbone

# Keras' names of the backbones, which importing their classes registers.
PRESETS = {
    keras.saving.get_registered_name(m.backbone_class): m.backbone_class for m in MODELS.values()
}


# What KerasHub writes beside a preset's backbone for a task.
TASK_CONFIG, TASK_WEIGHTS = "task.json", "task.weights.h5"


@dataclasses.dataclass(frozen=True)
class Start:
    """All of a file or a folder that a pre-training can start from.

    Attributes:
        backbone: the student.
        report: `LoadReport` of it.
        teacher: backbone whose encoder is the teacher's, and of which nothing else counts; `None`
            where there is none.
        teacher_keys: tuple of str. What it was read from.
        head: list of arrays. Kernel `[in, out]` and bias of each linear layer of the regression
            head; empty where there is none.
        head_keys: tuple of str. What it was read from.
    """

    backbone: Data2VecBackbone
    report: LoadReport
    teacher: Data2VecBackbone | None = None
    teacher_keys: tuple[str, ...] = ()
    head: tuple = ()
    head_keys: tuple[str, ...] = ()


def load_backbone(path, image_shape=None, dtype=None, verbose=True):
    """Reads a backbone from whatever kind of folder or file it is in.

    Args:
        path: str. A preset folder, a finished run's folder, a local Hugging Face folder of type
            `data2vec-vision`, `data2vec-audio` or `data2vec-text`, with or without a head; or a
            file of data2vec 1.0 as it was published, fairseq's (`.pt`) for speech and text and
            BEiT's (`.pth`) for vision. Nothing in a file is executed.
        image_shape: optional (int, int, int). Of a vision backbone for images of another size than
            the file's: its tables of relative and absolute positions are resized.
        dtype: optional dtype policy or its name.
        verbose: bool. Whether to print what the path was seen to be.

    Returns:
        A `Data2VecVisionBackbone`, `Data2VecSpeechBackbone` or `Data2VecTextBackbone`. A published
        speech model has `padding="reference"`.

    Raises:
        WeightsError: names what does not fit: fields, missing keys, keys of another shape.

    Warns:
        UserWarning: names the keys that are not the backbone's, those of a head.

    Example:
    ```python
    backbone = d2v_tf.load_backbone("data2vec-audio-base")  # a folder
    backbone = d2v_tf.load_backbone("audio_base_ls.pt")
    backbone = d2v_tf.load_backbone("data2vec-vision-base", image_shape=(384, 384, 3))
    ```
    """
    backbone, report = load_with_report(path, image_shape=image_shape, dtype=dtype)
    if verbose:
        print(report.summary())
    if report.unused:
        warnings.warn(
            f"{report.path}: {len(report.unused)} tensors are not the backbone's and were not "
            f"read: {', '.join(report.unused)}",
            stacklevel=2,
        )
    return backbone


@without_drawing()
def load_with_report(path, image_shape=None, dtype=None):
    """As `load_backbone`, without a word.

    Returns:
        (backbone, `LoadReport`).
    """
    if os.path.isfile(path):
        original = open_original(path, dtype=dtype)
        return _resized(path, original.backbone, image_shape), original.report
    folder = find_folder(path)
    config = read_json(os.path.join(folder, "config.json"))
    if "model_type" in config:
        backbone, report = load_huggingface(folder, dtype=dtype)
    elif "registered_name" in config:
        backbone, report = _load_preset(folder, config, dtype)
    else:
        raise WeightsError(
            f"{folder}/config.json: it has neither model_type nor registered_name. Give {READABLE}."
        )
    return _resized(folder, backbone, image_shape), report


@without_drawing()
def load_start(path):
    """Reads what `load_backbone` reads, with the teacher and the head of a file that has them.

    Args:
        path: str. As for `load_backbone`.

    Returns:
        `Start`.

    Raises:
        WeightsError: names what does not fit.
    """
    if not os.path.isfile(path):
        return Start(*load_with_report(path))
    original = open_original(path)
    return Start(original.backbone, original.report, *original.teacher(), *original.head())


def _resized(name, backbone, image_shape):
    if image_shape is None:
        return backbone
    try:
        return resize_backbone(backbone, image_shape)
    except ValueError as error:
        raise WeightsError(f"{name}: {error}") from None


def load_task(path, image_shape=None, dtype=None, verbose=True):
    """Reads a model with its head: a classifier, or a CTC model.

    Args:
        path: str. A fine-tuning run's folder or its preset, or a local Hugging Face folder of a
            `Data2VecVisionForImageClassification`, `Data2VecAudioForSequenceClassification`,
            `Data2VecAudioForCTC` or `Data2VecTextForSequenceClassification`.
        image_shape: as for `load_backbone`.
        dtype: optional dtype policy or its name, of the backbone.
        verbose: bool. Whether to print what the path was seen to be.

    Returns:
        A `Data2VecImageClassifier`, `Data2VecAudioClassifier`, `Data2VecTextClassifier` or
        `Data2VecSpeechCTC`.

    Raises:
        WeightsError: names what does not fit, or says that there is no head.

    Example:
    ```python
    classifier = d2v_tf.load_task("data2vec-vision-base-ft1k")  # a folder
    classifier.class_names[classifier.predict(images)[0].argmax()]
    ```
    """
    task, report = load_task_with_report(path, image_shape=image_shape, dtype=dtype)
    if verbose:
        print(report.summary())
    if report.unused:
        warnings.warn(
            f"{report.path}: {len(report.unused)} tensors are not the model's and were not "
            f"read: {', '.join(report.unused)}",
            stacklevel=2,
        )
    return task


@without_drawing()
def load_task_with_report(path, image_shape=None, dtype=None):
    """As `load_task`, without a word.

    Returns:
        (task, `LoadReport`).
    """
    folder = find_folder(path)
    config = read_json(os.path.join(folder, "config.json"))
    if "model_type" in config:
        task, report = load_huggingface_task(folder, dtype=dtype)
        task.preprocessor = preprocessor_for(task, load_preprocessing(folder))
    else:
        task, report = _load_task_preset(folder, dtype)
    backbone = _resized(folder, task.backbone, image_shape)
    if backbone is not task.backbone:
        task = on_backbone(task, backbone, _resized_preprocessor(task, backbone))
    return task, report


def preprocessor_for(task, layer):
    """What puts raw data before a task.

    Args:
        task: a task on a backbone.
        layer: what `load_preprocessing` gives.

    Returns:
        A KerasHub preprocessor; `None` where there is no layer.
    """
    if layer is None:
        return None
    options = {}
    if isinstance(task.backbone, Data2VecTextBackbone):
        options["sequence_length"] = task.backbone.max_sequence_length
    return task.preprocessor_cls(layer, **options)


def on_backbone(task, backbone, preprocessor=None):
    """The same task, its head's weights too, on another backbone."""
    config = task.get_config()
    parts = ("backbone", "preprocessor", "dtype")
    arguments = {name: value for name, value in config.items() if name not in parts}
    new = type(task)(**arguments, backbone=backbone, preprocessor=preprocessor)
    for source, target in zip(head_weights(task), head_weights(new), strict=True):
        target.assign(source)
    return new


def backbone_class_in(path):
    """The class of the backbone that `load_backbone` reads; weights in a folder are not read.

    Raises:
        WeightsError: as `load_backbone`.
    """
    if not os.path.isfile(path):
        config = read_json(os.path.join(find_folder(path), "config.json"))
        if config.get("model_type") in MODELS:
            return MODELS[config["model_type"]].backbone_class
        if config.get("registered_name") in PRESETS:
            return PRESETS[config["registered_name"]]
    return type(load_with_report(path)[0])  # or it says what is wrong


def has_head(path):
    """Whether a path is a folder that `load_task` reads, or would if all in it fits."""
    if os.path.isfile(path):
        return False
    folder = find_folder(path)
    config = read_json(os.path.join(folder, "config.json"))
    if "model_type" in config:
        return (config.get("architectures") or [None])[0] in HEADS
    return os.path.isfile(os.path.join(folder, TASK_CONFIG))


def _resized_preprocessor(task, backbone):
    """An image classifier's preprocessor for images of a backbone's size, if it has one."""
    if task.preprocessor is None:
        return None
    converter = task.preprocessor.image_converter
    config = {**converter.get_config(), "image_size": backbone.image_shape[:2]}
    return type(task.preprocessor)(type(converter).from_config(config))


def _load_task_preset(folder, dtype):
    path = os.path.join(folder, TASK_CONFIG)
    if not os.path.isfile(path):
        raise WeightsError(
            f"{folder} holds a backbone without a head. Read it by load_backbone, or fine-tune it "
            "by tools/finetune.py first."
        )
    name = read_json(path).get("registered_name")
    classes = {keras.saving.get_registered_name(h.task_class): h.task_class for h in HEADS.values()}
    if name not in classes:
        raise WeightsError(
            f"{path}: registered_name is {name!r}; only these are read: {', '.join(classes)}."
        )
    if not os.path.isfile(os.path.join(folder, TASK_WEIGHTS)):
        raise WeightsError(f"{folder}: {TASK_WEIGHTS} is missing, which holds the head's weights.")
    # As of backbones: KerasHub cannot choose where a preset was written in mixed precision.
    dtype = dtype or keras.config.dtype_policy()
    try:
        task = classes[name].from_preset(folder, dtype=dtype)
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise WeightsError(f"{folder}: this preset cannot be read ({reason})") from None
    mapped = {weight.path: (weight.path,) for weight in task.weights}
    return task, LoadReport(folder, f"a preset ({type(task).__name__})", mapped)


def _load_preset(folder, config, dtype):
    name = config["registered_name"]
    if name not in PRESETS:
        raise WeightsError(
            f"{folder}/config.json: registered_name is {name!r}; only these are read: "
            f"{', '.join(PRESETS)}."
        )
    options = {} if dtype is None else {"dtype": dtype}
    try:
        backbone = Data2VecBackbone.from_preset(folder, **options)
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise WeightsError(f"{folder}: this preset cannot be read ({reason})") from None
    mapped = {weight.path: (weight.path,) for weight in backbone.weights}
    kind = f"a preset ({type(backbone).__name__})"
    if os.path.isfile(os.path.join(folder, TASK_CONFIG)):
        kind += " without the head that stands beside it"
    return backbone, LoadReport(folder, kind, mapped)
