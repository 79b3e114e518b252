"""Classes: found, matched by name, and what is said where that is impossible."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from d2v_tf.data.indexed import IndexedSource
from d2v_tf.data.labels import class_numbers, find_classes, labels_of
from d2v_tf.data.reading import DataError
from d2v_tf.data.records import RecordSource
from d2v_tf.data.speech_sources import SpeechFiles


def images(labels, names, name="folder:train"):
    return IndexedSource(name, [f"{i}.png" for i in range(len(labels))], np.array(labels), names)


def audio(**options):
    return SpeechFiles("table:t.tsv", ["a", "b", "c"], np.array([1, 1, 1]), **options)


def test_classes_are_the_sources():
    assert find_classes(images([0, 1, 1], ("cat", "dog"))) == ("cat", "dog")
    records = RecordSource("tfds:x", [], None, has_labels=True, class_names=("a", "b"))
    assert find_classes(records) == ("a", "b")
    nameless = dataclasses.replace(records, class_names=None)
    assert find_classes(nameless, num_classes=3) == ("0", "1", "2")


def test_audio_has_kinds_of_labels():
    source = audio(
        labels={"digit": np.array([0, 1, -1]), "speaker": np.array([1, 0, 0])},
        class_names={"digit": ("one", "two"), "speaker": ("ann", "bob")},
    )
    assert find_classes(source) == ("one", "two")
    assert find_classes(source, "speaker") == ("ann", "bob")
    assert labels_of(source, "speaker")[0].tolist() == [1, 0, 0]
    with pytest.raises(DataError, match="has no label 'sex'; it has digit, speaker"):
        find_classes(source, "sex")
    tags = np.array([[1, 0], [1, 1], [0, 0]], bool)
    tagged = dataclasses.replace(source, tags=tags, tag_names=("rain", "wind"))
    assert find_classes(tagged) == find_classes(tagged, "tags") == ("rain", "wind")
    assert find_classes(tagged, "digit") == ("one", "two")


def test_numbers_of_records_are_counted(tmp_path):
    def records(*labels):
        path = str(tmp_path / "part")
        with tf.io.TFRecordWriter(path) as writer:
            for label in labels:
                writer.write(str(label))
        return RecordSource(
            "tfrecord:part",
            [(path, 0, len(labels))],
            lambda record: {"label": tf.strings.to_number(record, tf.int64)},
            has_labels=True,
        )

    assert find_classes(records(2, 0, 1, 1, -1)) == ("0", "1", "2")
    with pytest.raises(DataError, match="has 2 classes without names, numbered up to 7. Number"):
        find_classes(records(7, 0))
    corrupt = records(0, 1)
    content = bytearray((tmp_path / "part").read_bytes())
    content[12] ^= 1
    (tmp_path / "part").write_bytes(content)
    with pytest.raises(DataError, match="tfrecord:part is corrupt: corrupted record"):
        find_classes(corrupt)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (images([-1, -1], None), "folder:train has no labels. Put the examples of each class into"),
        (audio(), "table:t.tsv has no labels"),
        (images([0, 0], ("cat",)), "folder:train has a single class, cat: there is nothing to"),
        (images([0, 2], ("cat", "cow", "dog")), "no example of 1 of its 3 classes: cow. Add some"),
        (
            audio(tags=np.array([[1, 0]] * 3, bool), tag_names=("rain", "wind")),
            "has no example of 1 of its 2 classes: wind",
        ),
    ],
)
def test_what_cannot_be_learned_is_named(source, message):
    with pytest.raises(DataError, match=message):
        find_classes(source)


def test_classes_are_matched_by_name():
    known = ("cat", "dog", "owl")
    lines = []
    numbers = class_numbers(
        images([0, 1, 1], ("dog", "owl"), "folder:test"), known, warn=lines.append
    )
    assert numbers.tolist() == [1, 2]
    assert lines == ["folder:test has no example of 1 of the 3 classes: cat"]
    lines.clear()
    numbers = class_numbers(images([0, 1, 2], ("cat", "dog", "owl")), known, warn=lines.append)
    assert numbers.tolist() == [0, 1, 2] and not lines
    nameless = RecordSource("tfrecord:x", [], None, has_labels=True)
    assert class_numbers(nameless, known).tolist() == [0, 1, 2]


def test_a_class_that_the_model_lacks_is_named():
    message = "folder:test has 1 classes that the model does not know: cow. It knows 2: cat, dog"
    with pytest.raises(DataError, match=message):
        class_numbers(images([0, 1], ("cat", "cow"), "folder:test"), ("cat", "dog"))
