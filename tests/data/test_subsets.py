"""A fraction of the labels: of every class its part, and sources of these examples alone."""

import numpy as np
import pytest

from d2v_tf.data.reading import DataError
from d2v_tf.data.speech_sources import open_speech_source
from d2v_tf.data.subsets import stratified_subset
from d2v_tf.data.vision_sources import open_images
from tests.data.audio import write_tree as write_audio
from tests.data.images import write_tree


def test_every_class_gives_its_part_and_at_least_one():
    labels = np.repeat([0, 1, 2, 7], [1000, 100, 10, 1])
    keep = stratified_subset(np.random.default_rng(0).permutation(labels), 0.1, seed=0)
    assert keep.dtype == bool and keep.shape == (1111,)
    labels = np.random.default_rng(0).permutation(labels)
    assert [(labels[keep] == c).sum() for c in (0, 1, 2, 7)] == [100, 10, 1, 1]
    assert stratified_subset(labels, 1.0, seed=0).all()


def test_the_seed_alone_decides():
    labels = np.arange(1000) % 10
    one = stratified_subset(labels, 0.1, seed=3)
    np.testing.assert_array_equal(one, stratified_subset(labels, 0.1, seed=3))
    other = stratified_subset(labels, 0.1, seed=4)
    assert (one & other).sum() < 30  # 10 expected of 100
    # Not the first ones, nor evenly spread.
    assert np.flatnonzero(one).max() > 900 and len(set(np.diff(np.flatnonzero(one)))) > 5


def test_examples_without_a_label_are_left_out():
    labels = np.where(np.arange(100) < 50, -1, np.arange(100) % 2)
    keep = stratified_subset(labels, 0.5, seed=0)
    assert not keep[:50].any() and keep.sum() == 24  # round(12.5) of each


def test_of_several_labels_each_class_has_its_part():
    rng = np.random.default_rng(0)
    tags = rng.random((2000, 5)) < [0.3, 0.1, 0.05, 0.01, 0.0]
    tags[0, 4] = True  # a class of a single example
    keep = stratified_subset(tags, 0.1, seed=0)
    wanted = np.maximum(1, np.round(0.1 * tags.sum(axis=0)))
    assert (tags[keep].sum(axis=0) >= wanted).all() and keep[0]
    assert (tags[keep].sum(axis=0) <= 1.3 * wanted + 3).all()
    silent = ~tags.any(axis=1)
    assert abs(keep[silent].sum() - 0.1 * silent.sum()) <= 1
    assert keep.sum() < 1.2 * 0.1 * 2000


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_what_is_no_fraction_is_named(fraction):
    with pytest.raises(DataError, match="above 0 and at most 1. Received: "):
        stratified_subset(np.zeros(3, int), fraction, seed=0)


def test_no_labels_are_named():
    with pytest.raises(DataError, match="none of the 3 examples has a label"):
        stratified_subset(np.full(3, -1), 0.1, seed=0)


def test_images_alone(tmp_path):
    paths = write_tree(tmp_path, 6)
    keep = np.array([True, False, False, True, False, True])
    source = open_images(f"folder:{tmp_path}").only(keep)
    assert source.name == f"folder:{tmp_path} (3 of its 6 examples)"
    assert source.names == [str(paths[i]) for i in (0, 3, 5)]
    assert source.labels.tolist() == [0, 1, 1] and source.class_names == ("cat", "dog")
    seen = {int(r["candidates"][0]) for r in source.records(0, 0).take(3)}
    assert seen == {0, 1, 2}
    assert source.load(2)["name"].numpy().decode() == str(paths[5])
    digits = open_images("builtin")
    some = digits.only(digits.labels == 3)
    assert set(some.labels) == {3} and some.num_examples == some.images.shape[0] > 100
    np.testing.assert_array_equal(some.load(4)["image"], digits.images[digits.labels == 3][4])


def test_utterances_alone(tmp_path):
    paths = write_audio(tmp_path, [0.1, 0.2, 0.3, 0.4], classes=("ann", "bob"))
    paths[3].write_bytes(b"")
    source = open_speech_source(f"folder:{tmp_path}")
    some = source.only(np.array([False, True, False, True]))
    assert some.names == [str(paths[1]), str(paths[3])] and some.transcripts is None
    assert some.lengths.tolist() == [4800, 0] and list(some.problems) == [1]
    assert some.labels["class"].tolist() == [0, 1] and "(2 of its 4 utterances)" in some.name
    assert len(some.read(0)) == 4800


def test_records_say_that_they_cannot(tmp_path):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(tmp_path / "part")) as writer:
        writer.write(tf.train.Example().SerializeToString())
    source = open_images(f"tfrecord:{tmp_path}/part")
    with pytest.raises(DataError, match="tfrecord:.*part is read front to back.*folder:PATH"):
        source.only(np.ones(1, bool))
