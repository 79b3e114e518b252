"""Single examples in files and tables, and whether they fit a model."""

import dataclasses
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from d2v_tf.backbones.speech import Data2VecSpeechBackbone
from d2v_tf.backbones.text import Data2VecTextBackbone
from d2v_tf.backbones.vision import Data2VecVisionBackbone
from d2v_tf.data.audio_files import AudioError, read_audio
from d2v_tf.data.glue import glue_task, open_glue
from d2v_tf.data.labelled_sources import LABELLED_SOURCES, Columns, open_labelled
from d2v_tf.data.labels import labels_of
from d2v_tf.data.reading import DataError, first_line
from d2v_tf.data.speech_sources import SPEECH_SOURCES, SpeechFiles, open_speech_source
from d2v_tf.data.vision import decode
from d2v_tf.data.vision_sources import VISION_SOURCES, open_images

SCHEMES = {*VISION_SOURCES, *SPEECH_SOURCES, *LABELLED_SOURCES}


class UnreadableError(Exception):
    """An example that cannot be read; the message says why."""


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """N examples that are read one by one.

    Attributes:
        name: str. As the user named them.
        names: list of N str: paths, or the number of a line.
        read: function of an index to an image uint8 `[H, W, 3]`, a waveform float32 `[N]`, a str
            or a tuple of two. Raises `UnreadableError`.
        sizes: float array `[N]`. Batches are made of examples of about equal size.
        labels: optional array `[N]` of ints or floats, or bool `[N, C]`.
        class_names: tuple of str, or `None`.
        transcripts: optional list of N str.
    """

    name: str
    names: list[str]
    read: Callable
    sizes: np.ndarray
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    transcripts: list[str] | None = None


def open_examples(backbone, spec, label=None, columns=None, tfds_dir=None):
    """Opens a source of examples that fit a backbone.

    Args:
        backbone: says whether they are images, recordings or texts.
        spec: str. A `SOURCE` as for training, or the path of a file; for a text backbone also the
            text itself.
        label: optional str. Which of several kinds of labels of recordings.
        columns: optional `Columns` of a table of texts.
        tfds_dir: optional str.

    Returns:
        `Examples`.

    Raises:
        DataError: for a source that does not exist, or is read front to back only.
    """
    is_source = spec.partition(":")[0] in SCHEMES
    if isinstance(backbone, Data2VecTextBackbone):
        return _open_texts(spec, columns, tfds_dir) if is_source else _one_text(spec)
    if not is_source and not os.path.isfile(spec):
        raise DataError(
            f"data: {spec} is neither a file nor a source, such as folder:PATH or table:FILE."
        )
    if isinstance(backbone, Data2VecVisionBackbone):
        return _open_image_file(spec) if os.path.isfile(spec) else _open_images(spec, tfds_dir)
    if isinstance(backbone, Data2VecSpeechBackbone):
        return (
            _open_audio_file(spec) if os.path.isfile(spec) else _open_audio(spec, label, tfds_dir)
        )
    raise TypeError(f"no data2vec backbone: {type(backbone).__name__}")


def open_glue_examples(name, spec, split=None, tfds_dir=None):
    """Opens what a task of GLUE is measured on.

    Args:
        name: str, of `glue_task`.
        spec: str. Where GLUE's folders are, as for training: `folder:PATH` or `tfds:glue`.
        split: optional str. Defaults to the task's first one for evaluation.
        tfds_dir: optional str.

    Returns:
        (`Examples`, tuple of the names of the task's metrics).

    Raises:
        DataError: for another task, or files that are not there.
    """
    task = glue_task(name)
    split = split or next(iter(task.evaluation_splits))
    return _texts(open_glue(name, spec, split, tfds_dir=tfds_dir)), task.metrics


def number_classes(examples, class_names):
    """The examples' labels as a model numbers them.

    Args:
        examples: `Examples` with labels.
        class_names: tuple of str, or `None` for numbers and for a model without names.

    Returns:
        int64 `[N]`, float32 `[N]`, or bool `[N, C]`.

    Raises:
        DataError: where there are no labels, or a class that the model lacks.
    """
    if examples.labels is None:
        raise DataError(f"data: {examples.name} has no labels to measure with.")
    if class_names is None or examples.class_names is None:
        return examples.labels
    number = {name: i for i, name in enumerate(class_names)}
    unknown = [name for name in examples.class_names if name not in number]
    if unknown:
        raise DataError(
            f"data: {examples.name} has {len(unknown)} classes that the model does not know: "
            f"{', '.join(unknown[:5])}. It knows {', '.join(class_names[:5])}"
            f"{', ...' if len(class_names) > 5 else ''}."
        )
    numbers = np.array([number[name] for name in examples.class_names], "int64")
    if examples.labels.ndim == 1:
        return np.where(examples.labels < 0, -1, numbers[examples.labels])
    multi_hot = np.zeros((len(examples.labels), len(class_names)), bool)
    multi_hot[:, numbers] = examples.labels
    return multi_hot


def _open_image_file(path):
    return Examples(
        path,
        [path],
        lambda _: _decode(lambda: {"encoded": tf.io.read_file(path)}),
        np.ones(1),
    )


def _open_images(spec, tfds_dir):
    source = open_images(spec, tfds_dir)
    if not hasattr(source, "load"):
        raise _front_to_back(source)
    labels, names = labels_of(source) if source.has_labels else (None, None)

    return Examples(
        source.name,
        list(source.names),
        lambda index: _decode(lambda: source.load(index)),
        np.ones(source.num_examples),
        labels,
        names,
    )


def _decode(load):
    try:
        return decode(load()).numpy()
    except tf.errors.OpError as error:
        raise UnreadableError(first_line(error)) from None


def _open_audio_file(path):
    return Examples(path, [path], lambda _: _read(read_audio, path), np.ones(1))


def _open_audio(spec, label, tfds_dir):
    source = open_speech_source(spec, tfds_dir=tfds_dir)
    if not isinstance(source, SpeechFiles):
        raise _front_to_back(source)
    labels, names = labels_of(source, label) if source.has_labels else (None, None)
    return Examples(
        source.name,
        list(source.names),
        lambda index: _read(source.read, index),
        source.lengths,
        labels,
        names,
        source.transcripts,
    )


def _read(function, what):
    try:
        return function(what)
    except AudioError as error:
        raise UnreadableError(str(error)) from None


def _one_text(spec):
    """A text file as a whole, or the text that is given."""

    def read(_):
        if not os.path.isfile(spec):
            return spec
        with open(spec, encoding="utf-8", errors="replace") as file:
            return file.read()

    return Examples(spec, [spec], read, np.ones(1))


def _open_texts(spec, columns, tfds_dir):
    return _texts(open_labelled(spec, columns or Columns(), tfds_dir=tfds_dir))


def _texts(source):
    second = source.second_sentences

    def read(index):
        first = source.sentences[index]
        return first if second is None else (first, second[index])

    return Examples(
        source.name,
        [f"{source.name}, example {i + 1}" for i in range(source.num_examples)],
        read,
        np.array([len(text) for text in source.sentences]),
        source.labels,
        source.class_names,
    )


def _front_to_back(source):
    return DataError(
        f"data: {source.name} is read front to back, and single examples are wanted here. Name a "
        "folder or a table of files."
    )
