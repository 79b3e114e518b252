"""Batches of labelled images: labels, augmentation, resumption, and what is wrong with a source."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from d2v_tf.data.reading import BadExamples, DataError
from d2v_tf.data.vision_labelled import evaluation_dataset, training_dataset
from d2v_tf.data.vision_sources import open_images
from tests.data.images import encode, picture, write_tree

SHAPE = (16, 16, 3)
CLASSES = ("cat", "dog", "owl")
PLAIN = {
    "crop_scale": (1.0, 1.0),
    "crop_ratio": (1.0, 1.0),
    "flip": False,
    "rand_augment": None,
    "erasing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
}


def batches(source, bad=None, **overrides):
    arguments = {
        "class_names": CLASSES,
        "image_shape": SHAPE,
        "batch_size": 6,
        "seed": 0,
        "start": 0,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "color_jitter": 0.2,
        "bad_examples": bad or BadExamples(source.name, source.num_examples),
        **overrides,
    }
    return training_dataset(source, **arguments)


def take(dataset, count):
    return list(dataset.take(count).as_numpy_iterator())


def assert_equal(one, other):
    assert len(one) == len(other)
    for first, second in zip(one, other, strict=True):
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1], second[1])


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    write_tree(root, 15, CLASSES)
    return open_images(f"folder:{root}")


@pytest.fixture(scope="module")
def whole(photos):
    """Six batches of a run: past two epochs."""
    return take(batches(photos), 6)


def test_batches_are_static_and_labels_are_shares(photos, whole):
    dataset = batches(photos, **PLAIN)
    assert [spec.shape for spec in dataset.element_spec] == [(6, *SHAPE), (6, 3)]
    for images, labels in whole:
        assert images.shape == (6, *SHAPE) and labels.shape == (6, 3)
        assert images.dtype == labels.dtype == np.float32
        assert images.std() > 0.3
        np.testing.assert_allclose(labels.sum(axis=1), 1.0, rtol=1e-5)
        assert labels.max(axis=1).min() < 1.0  # mixed


def test_a_later_start_continues_with_the_same_pixels_and_labels(photos, whole):
    assert_equal(whole[4:], take(batches(photos, start=24), 2))


def test_another_seed_shows_other_pixels(photos):
    one, other = (take(batches(photos, seed=seed, **PLAIN), 1)[0] for seed in (0, 1))
    assert np.abs(one[0] - other[0]).max() > 0.5


def test_an_example_is_the_same_whatever_its_batch_if_it_is_not_mixed(photos):
    alone = {"mixup": 0.0, "cutmix": 0.0}
    large = take(batches(photos, batch_size=12, **alone), 1)[0]
    small = take(batches(photos, batch_size=2, num_shards=2, shard=1, **alone), 3)
    for part in (0, 1):
        np.testing.assert_array_equal(large[part][1::2], np.concatenate([b[part] for b in small]))


SCRIPT = """
import sys
import numpy as np
from d2v_tf.data.vision_sources import open_images
from tests.data.test_vision_labelled import batches, take
images, labels = take(batches(open_images(sys.argv[1]), start=6), 1)[0]
np.savez(sys.argv[2], images=images, labels=labels)
"""


def test_another_process_of_another_backend_sees_the_same(photos, whole, tmp_path):
    subprocess.run(
        [sys.executable, "-c", SCRIPT, photos.name, str(tmp_path / "seen.npz")],
        env={**os.environ, "KERAS_BACKEND": "torch"},
        check=True,
    )
    seen = np.load(tmp_path / "seen.npz")
    assert_equal([(seen["images"], seen["labels"])], whole[1:2])


def test_pixels_stay_float32_under_mixed_precision(photos, whole):
    keras.config.set_dtype_policy("mixed_bfloat16")
    assert_equal(whole[:1], take(batches(photos), 1))


def test_without_augmentation_images_and_classes_come_through(photos):
    images, labels = take(batches(photos, shuffle=False, color_jitter=0.0, **PLAIN), 1)[0]
    names = np.array(CLASSES)[photos.labels[:6]]
    assert [CLASSES[i] for i in labels.argmax(axis=1)] == names.tolist()
    assert set(labels.ravel()) == {0.0, 1.0}
    expected, _ = next(iter(evaluate(photos, batch_size=6)))
    crop = np.abs(images - expected).mean()
    assert crop < 0.25  # the middle of it, resized a little differently


def test_a_part_of_the_images_is_erased_by_noise_as_strong_as_pixels(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "dog").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / name / "a.png").write_bytes(encode(np.full((32, 32, 3), 128, "uint8")))
    source = open_images(f"folder:{tmp_path}")
    options = {**PLAIN, "color_jitter": 0.0, "image_shape": (32, 32, 3), "batch_size": 1000}
    options |= {"class_names": ("cat", "dog"), "erasing": 0.25}
    images, labels = take(batches(source, **options), 1)[0]
    flat = (128 / 255 - 0.5) / 0.25
    erased = np.abs(images - flat).max(axis=-1) > 1e-4  # [B, H, W]
    is_erased = erased.any(axis=(1, 2))
    assert abs(is_erased.mean() - 0.25) < 4 * np.sqrt(0.1875 / 1000)
    area = erased[is_erased].mean(axis=(1, 2))
    assert 0.005 < area.min() < 0.06 and 0.22 < area.max() < 0.36
    for mask in erased[is_erased]:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert mask.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)  # a full box
    noise = images[erased]
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02


def test_augmentation_changes_each_image_by_itself(photos):
    options = {**PLAIN, "color_jitter": 0.0, "shuffle": False, "batch_size": 15}
    plain = take(batches(photos, **options), 1)[0][0]
    images = take(batches(photos, **{**options, "rand_augment": (2, 9.0)}), 4)
    for batch, _ in images:
        changed = np.abs(batch - plain).max(axis=(1, 2, 3)) > 0.02
        assert 5 <= changed.sum() <= 15  # three quarters expected
    first, second = images[0][0], images[1][0]
    assert (np.abs(first - second).max(axis=(1, 2, 3)) > 0.02).sum() > 8  # anew in every epoch


def evaluate(source, bad=None, **overrides):
    arguments = {
        "class_names": CLASSES,
        "image_shape": SHAPE,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "batch_size": 4,
        "bad_examples": bad or BadExamples(source.name, source.num_examples, warn=str),
        **overrides,
    }
    return evaluation_dataset(source, **arguments)


def test_evaluation_matches_classes_by_name(tmp_path):
    write_tree(tmp_path, 7, ("dog", "owl"))
    lines = []
    source = open_images(f"folder:{tmp_path}")
    result = take(evaluate(source, BadExamples(source.name, 7, warn=lines.append)), 9)
    assert [len(images) for images, _ in result] == [4, 3]
    labels = np.concatenate([labels for _, labels in result])
    np.testing.assert_array_equal(labels, np.eye(3)[[1, 1, 1, 1, 2, 2, 2]])
    assert labels.dtype == np.float32 and "no example of 1 of the 3 classes: cat" in lines[0]
    for build in (evaluate, batches):
        with pytest.raises(DataError, match="classes that the model does not know: owl"):
            build(source, class_names=("cat", "dog"))


def test_images_without_labels_are_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(picture(0)))
    source = open_images(f"folder:{tmp_path}")
    for build in (evaluate, batches):
        with pytest.raises(DataError, match="has no labels. Put the examples of each class into"):
            build(source)


@pytest.mark.parametrize(("label", "reason"), [(-1, "it has no label"), (3, "not below 3")])
def test_records_of_no_class_are_bad_examples(tmp_path, label, reason):
    with tf.io.TFRecordWriter(str(tmp_path / "part")) as writer:
        for i in range(8):
            number = label if i == 5 else i % 3
            feature = {
                "image": tf.train.Feature(
                    bytes_list=tf.train.BytesList(value=[encode(picture(i))])
                ),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[number])),
            }
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())
    source = open_images(f"tfrecord:{tmp_path}/part")
    for build, count, options in ((evaluate, 7, {}), (batches, 12, PLAIN)):
        lines = []
        bad = BadExamples(source.name, 8, max_bad=0.2, warn=lines.append)
        result = take(build(source, bad, **options), 2)
        assert bad.count == 1 and reason in lines[0]
        assert sum(len(labels) for _, labels in result) == count
        assert all((labels.sum(axis=1) > 0.99).all() for _, labels in result)
