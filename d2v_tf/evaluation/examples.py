"""Single examples in files and tables, and whether they fit a model."""

import dataclasses
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from d2v_tf.backbones.speech import Data2VecSpeechBackbone
from d2v_tf.backbones.speech_frontend import receptive_field
from d2v_tf.backbones.text import Data2VecTextBackbone
from d2v_tf.backbones.vision import Data2VecVisionBackbone
from d2v_tf.data.audio_files import SAMPLE_RATE, AudioError, read_audio
from d2v_tf.data.glue import glue_task, open_glue
from d2v_tf.data.labelled_sources import LABELLED_SOURCES, open_labelled
from d2v_tf.data.labelled_text import Columns
from d2v_tf.data.labels import default_label, labels_of
from d2v_tf.data.reading import DataError, TooManyBadError, first_line
from d2v_tf.data.records import RecordSource
from d2v_tf.data.speech_sources import SPEECH_SOURCES, SpeechFiles, open_speech_source
from d2v_tf.data.vision import decode
from d2v_tf.data.vision_sources import VISION_SOURCES, open_images

SCHEMES = {*VISION_SOURCES, *SPEECH_SOURCES, *LABELLED_SOURCES}
# What files of texts end in.
TEXT_ENDINGS = (".csv", ".json", ".jsonl", ".md", ".tsv", ".txt")


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


def open_examples(
    backbone,
    spec,
    label=None,
    columns=None,
    tfds_dir=None,
    multi_label=False,
    max_seconds=None,
    pairs=None,
    max_bad=0.01,
    warn=print,
):
    """Opens a source of examples that fit a backbone.

    Args:
        backbone: says whether they are images, recordings or texts.
        spec: str. A `SOURCE` as for training, or the path of a file; for a text backbone also
            `text:FILE`, a text a line, or the text itself.
        label: optional str. Which of several kinds of labels of recordings.
        columns: optional `Columns` of a table of texts; with no label, none is needed.
        tfds_dir: optional str.
        multi_label: bool. Whether they are for a tagger: of recordings with tags and classes it
            takes the tags, and any other model the classes, where `label` does not say which.
        max_seconds: optional float. Of longer recordings the middle is taken.
        pairs: optional bool. Whether the texts have to be pairs; any will do where it is `None`.
        max_bad: float. The part of a source of texts that may be bad.
        warn: callable(str), told what is left out or cut.

    Returns:
        `Examples`.

    Raises:
        DataError: for a source that does not exist, is read front to back only, or has too much
            that is bad; for single texts where pairs are needed, or pairs where they are not.
    """
    is_source = spec.partition(":")[0] in SCHEMES
    if isinstance(backbone, Data2VecTextBackbone):
        if not is_source:
            return _one_text(spec, pairs)
        return _open_texts(
            open_labelled,
            spec,
            columns or Columns(),
            tfds_dir,
            pairs=pairs,
            options=(max_bad, warn),
        )
    if not is_source and not os.path.isfile(spec):
        raise DataError(
            f"data: {spec} is neither a file nor a source, such as folder:PATH or table:FILE."
        )
    if isinstance(backbone, Data2VecVisionBackbone):
        return _open_image_file(spec) if os.path.isfile(spec) else _open_images(spec, tfds_dir)
    if isinstance(backbone, Data2VecSpeechBackbone):
        shortest = receptive_field(backbone.conv_kernel_sizes, backbone.conv_strides)
        longest = None if max_seconds is None else round(max_seconds * SAMPLE_RATE)
        read = {"min_samples": shortest, "max_samples": longest, "place": 0.5}
        if os.path.isfile(spec):
            return _open_audio_file(spec, read)
        return _open_audio(spec, label, tfds_dir, multi_label, read, warn)
    raise TypeError(f"no data2vec backbone: {type(backbone).__name__}")


def open_glue_examples(name, spec, split=None, tfds_dir=None, pairs=None, max_bad=0.01, warn=print):
    """Opens what a task of GLUE is measured on.

    Args:
        name: str, of `glue_task`.
        spec: str. Where GLUE's folders are, as for training: `folder:PATH` or `tfds:glue`.
        split: optional str. Defaults to the task's first one for evaluation.
        tfds_dir, pairs, max_bad, warn: as for `open_examples`.

    Returns:
        (`Examples`, tuple of the names of the task's metrics).

    Raises:
        DataError: for another task or split, files that are not there or have too much that is
            bad, or texts that the model was not made for.
    """
    task = glue_task(name)
    split = split or next(iter(task.evaluation_splits))
    examples = _open_texts(
        open_glue, name, spec, split, tfds_dir, pairs=pairs, options=(max_bad, warn)
    )
    return examples, task.metrics


def _open_image_file(path):
    return Examples(
        path,
        [path],
        lambda _: _decode(lambda: {"encoded": tf.io.read_file(path)}),
        np.ones(1),
    )


def _open_images(spec, tfds_dir):
    source = open_images(spec, tfds_dir)
    if isinstance(source, RecordSource):
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


def _open_audio_file(path, read):
    return Examples(path, [path], lambda _: _read(read_audio, path, read), np.ones(1))


def _open_audio(spec, label, tfds_dir, multi_label, read, warn):
    source = open_speech_source(spec, tfds_dir=tfds_dir)
    if not isinstance(source, SpeechFiles):
        raise _front_to_back(source)
    labels, names = None, None
    if source.has_labels or source.tags is not None:
        labels, names = labels_of(source, label or default_label(source, multi_label))
    longest = read["max_samples"] or np.inf
    cut = int(np.sum(source.lengths > longest))
    if cut:
        warn(
            f"{cut:,} of {source.num_examples:,} recordings are longer than "
            f"{longest / SAMPLE_RATE:g} s: their middle is taken, as the model's run did"
        )
    return Examples(
        source.name,
        list(source.names),
        lambda index: _read(source.read, index, read),
        np.minimum(source.lengths, longest),
        labels,
        names,
        source.transcripts,
    )


def _read(function, what, options):
    try:
        return function(what, **options)
    except AudioError as error:
        raise UnreadableError(str(error)) from None


def _one_text(spec, pairs):
    """A text file as a whole, or the text that is given."""
    _check_pairs(repr(spec), False, pairs)
    if not os.path.isfile(spec) and _looks_like_path(spec):
        advice = "Check the path; a word that is no path can be given in a file, by text:FILE."
        if os.path.isdir(spec):
            advice = f"Name the documents in a folder by folder:{spec}"
        raise DataError(f"data: {spec} looks like a path, and there is no such file. {advice}")

    def read(_):
        if not os.path.isfile(spec):
            return spec
        try:
            with open(spec, encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError as error:
            raise UnreadableError(error.strerror) from None

    return Examples(spec, [spec], read, np.ones(1))


def _looks_like_path(spec):
    """Whether a text is rather a path, mistyped: taken for a text, it would get an answer."""
    has_space = any(letter.isspace() for letter in spec)
    return not has_space and (os.sep in spec or spec.lower().endswith(TEXT_ENDINGS))


def _check_pairs(what, are_pairs, pairs):
    """Refuses single texts where pairs are needed, and the other way round."""
    if pairs is None or pairs == are_pairs:
        return
    if pairs:
        raise DataError(
            f"data: the model was fine-tuned on pairs of texts, and {what} has no second ones. "
            "Name a table and its columns: --data=table:FILE --columns=FIRST,SECOND,LABEL, or, to "
            "predict without labels, --columns=FIRST,SECOND, with the comma at its end."
        )
    raise DataError(
        f"data: the model was fine-tuned on single texts, and {what} has pairs. Name one column: "
        "--columns=SENTENCE,LABEL, without LABEL to predict."
    )


def _open_texts(open_source, *arguments, pairs, options):
    max_bad, warn = options
    try:
        source = open_source(*arguments, max_bad=max_bad, warn=warn)
    except TooManyBadError as error:
        raise DataError(f"{error.what} Remove them, or raise --max_bad.") from None
    second = source.second_sentences
    _check_pairs(source.name, second is not None, pairs)

    def read(index):
        first = source.sentences[index]
        return first if second is None else (first, second[index])

    return Examples(
        source.name,
        source.places,
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
