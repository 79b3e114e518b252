"""Sources: what they find, in which order they give it, and what they say when they cannot."""

import numpy as np
import pytest
import tensorflow as tf

from d2v_tf.data.reading import DataError
from d2v_tf.data.vision_sources import open_images
from tests.data.images import encode, picture, write_tree


def write_records(path, examples):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for name, encoded, label in examples:
            feature = {
                "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded])),
                "image/filename": tf.train.Feature(
                    bytes_list=tf.train.BytesList(value=[name.encode()])
                ),
            }
            if label is not None:
                feature["image/class/label"] = tf.train.Feature(
                    int64_list=tf.train.Int64List(value=[label])
                )
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())


def first_candidates(source, records, count):
    """Names of the examples of the first `count` records, replacements left aside."""
    names = []
    for record in records.take(count):
        names.append(source.load(record["candidates"][0])["name"].numpy().decode())
    return names


@pytest.fixture
def folder(tmp_path):
    write_tree(tmp_path / "photos", 10)
    return open_images(f"folder:{tmp_path / 'photos'}")


@pytest.fixture
def sharded(tmp_path):
    for part in range(3):
        write_records(
            tmp_path / f"part-{part}.tfrecord",
            [(f"{part}-{i}", encode(picture(i)), i % 4) for i in range(4)],
        )
    return open_images(f"tfrecord:{tmp_path}/part-*.tfrecord")


def test_builtin_is_the_digits_in_two_disjoint_parts():
    from sklearn.datasets import load_digits

    train, test = open_images("builtin"), open_images("builtin:test")
    assert (train.num_examples, test.num_examples) == (1438, 359)
    assert set(train.names).isdisjoint(test.names)
    digits = load_digits()
    last = train.load(tf.constant(1437))
    number = int(last["name"].numpy().decode().removeprefix("digit "))
    assert int(last["label"]) == digits.target[number]
    np.testing.assert_allclose(
        last["image"][..., 0] / 255, digits.images[number] / 16, atol=0.5 / 255
    )


def test_a_folder_has_its_first_level_as_classes(tmp_path):
    paths = write_tree(tmp_path, 6, classes=("b", "a"))
    source = open_images(f"folder:{tmp_path}")
    assert source.class_names == ("a", "b") and source.has_labels
    assert source.names == [str(p) for p in paths]
    assert source.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_a_folder_with_loose_images_has_no_classes(tmp_path):
    write_tree(tmp_path, 2)
    (tmp_path / "loose.PNG").write_bytes(encode(picture(0)))
    (tmp_path / "notes.txt").write_text("not an image")
    source = open_images(f"folder:{tmp_path}")
    assert source.num_examples == 3
    assert source.class_names is None and not source.has_labels
    assert source.labels.tolist() == [-1, -1, -1]


@pytest.mark.parametrize("kind", ["folder", "sharded"])
def test_every_epoch_has_every_example_once_in_an_order_of_its_own(kind, request):
    source = request.getfixturevalue(kind)
    n = source.num_examples
    names = first_candidates(source, source.records(0, seed=3), 3 * n)
    epochs = [names[i * n : (i + 1) * n] for i in range(3)]
    everything = sorted(first_candidates(source, source.once(), n))
    for epoch in epochs:
        assert sorted(epoch) == everything
    assert epochs[0] != epochs[1] != epochs[2]
    assert names == first_candidates(source, source.records(0, seed=3), 3 * n)
    assert names != first_candidates(source, source.records(0, seed=4), 3 * n)


@pytest.mark.parametrize("kind", ["folder", "sharded"])
@pytest.mark.parametrize("start", [1, 7, 12, 25])
def test_records_from_a_position_are_those_of_the_whole_run(kind, start, request):
    source = request.getfixturevalue(kind)
    whole = list(source.records(0, seed=3).skip(start).take(20).as_numpy_iterator())
    again = list(source.records(start, seed=3).take(20).as_numpy_iterator())
    assert [r["position"] for r in again] == list(range(start, start + 20))
    for one, other in zip(whole, again, strict=True):
        assert one["position"] == other["position"]
        assert one["candidates"].tolist() == other["candidates"].tolist()


@pytest.mark.parametrize("kind", ["folder", "sharded"])
def test_shards_share_the_positions_out(kind, request):
    source = request.getfixturevalue(kind)
    whole = first_candidates(source, source.records(6, seed=1), 30)
    shards = [
        first_candidates(source, source.records(6, seed=1, num_shards=3, shard=i), 10)
        for i in range(3)
    ]
    assert [name for group in zip(*shards, strict=True) for name in group] == whole


@pytest.mark.parametrize("kind", ["folder", "sharded"])
def test_once_keeps_what_is_wanted(kind, request):
    source = request.getfixturevalue(kind)
    everything = first_candidates(source, source.once(), source.num_examples)
    keep = np.arange(source.num_examples) % 3 == 1
    kept = first_candidates(source, source.once(keep), source.num_examples)
    assert kept == [name for name, wanted in zip(everything, keep, strict=True) if wanted]


def test_without_shuffle_the_order_is_the_sources(sharded):
    names = first_candidates(sharded, sharded.records(0, seed=0, shuffle=False), 5)
    assert names == ["0-0", "0-1", "0-2", "0-3", "1-0"]


def test_tfrecords_bring_labels_or_none(sharded, tmp_path):
    assert sharded.has_labels and sharded.num_examples == 12
    assert int(sharded.load(next(iter(sharded.once()))["candidates"][0])["label"]) == 0
    write_records(tmp_path / "bare", [("x", encode(picture(0)), None)])
    assert not open_images(f"tfrecord:{tmp_path}/bare").has_labels


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    """A dataset prepared by TFDS's own writer: 12 images of two classes in two shards."""
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=["cat", "dog"]),
        }
    )
    examples = [(i, {"image": picture(i), "label": i % 2}) for i in range(12)]
    folder = tmp_path_factory.mktemp("tfds")
    tfds.dataset_builders.store_as_tfds_dataset(
        name="pets",
        version="1.0.0",
        features=features,
        split_datasets={
            "train": tf.data.Dataset.from_generator(
                lambda: (e for _, e in examples[:8]),
                output_signature={
                    "image": tf.TensorSpec((None, None, 3), tf.uint8),
                    "label": tf.TensorSpec((), tf.int64),
                },
            ),
            "test": tf.data.Dataset.from_generator(
                lambda: (e for _, e in examples[8:]),
                output_signature={
                    "image": tf.TensorSpec((None, None, 3), tf.uint8),
                    "label": tf.TensorSpec((), tf.int64),
                },
            ),
        },
        data_dir=str(folder),
    )
    return str(folder)


@pytest.mark.parametrize(
    ("spec", "count"), [("pets", 8), ("pets:test", 4), ("pets:train[2:5]", 3), ("pets:1.0.0", None)]
)
def test_tfds_datasets_and_their_splits(tfds_dir, spec, count):
    if count is None:
        with pytest.raises(DataError, match="has no split '1.0.0'; it has train, test"):
            open_images(f"tfds:{spec}", tfds_dir=tfds_dir)
        return
    source = open_images(f"tfds:{spec}", tfds_dir=tfds_dir)
    assert source.num_examples == count
    assert source.class_names == ("cat", "dog")
    records = list(source.once())
    assert len(records) == count
    for record in records:
        example = source.load(record["candidates"][0])
        image = tf.io.decode_png(example["encoded"]).numpy()
        # The label is the parity of the seed that made the image.
        matches = [s for s in range(12) if np.array_equal(picture(s), image)]
        assert len(matches) == 1 and int(example["label"]) == matches[0] % 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("foldr:x", "'foldr:x' is not a source; it must start with one of .* Did you mean folder"),
        ("folder:/nowhere", "folder:/nowhere is not a folder"),
        ("builtin:dev", "builtin has the splits train and test. Received: 'dev'"),
        ("tfrecord:/nowhere/*.tfrecord", "names no file"),
        ("tfds:no_such_dataset_here", "tfds:no_such_dataset_here is not a dataset"),
    ],
)
def test_what_cannot_be_opened_is_named(spec, message):
    with pytest.raises(DataError, match=message):
        open_images(spec)


def test_an_empty_folder_says_what_it_saw(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match="has no images: 1 files were seen, none of them ends in"):
        open_images(f"folder:{tmp_path}")


def test_a_truncated_record_file_is_named(tmp_path):
    path = tmp_path / "part"
    write_records(path, [("x", encode(picture(0)), 0)] * 3)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=f"{path} is corrupt: it ends inside record 2"):
        open_images(f"tfrecord:{path}")


def test_an_empty_record_file_is_named(tmp_path):
    (tmp_path / "part").write_bytes(b"")
    with pytest.raises(DataError, match="has no records in its 1 files"):
        open_images(f"tfrecord:{tmp_path}/part")
