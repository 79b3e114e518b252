"""Batches of labelled audio: which clip has which label, mixing, resumption, and faults."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from d2v_tf.data.audio_labelled import evaluation_dataset, plan_training, training_dataset
from d2v_tf.data.labels import find_classes
from d2v_tf.data.reading import BadExamples, DataError
from d2v_tf.data.speech_records import serialize_utterance
from d2v_tf.data.speech_sources import open_speech_source
from tests.data.audio import RATE, noise, normalized, write_tree

SECONDS = [0.1 + 0.02 * i for i in range(24)]
CLASSES = ("ann", "bob", "cid")
TAG_TABLE = "path\ttags\n" + "".join(
    f"{'abc'[i % 3]}/{i:04}.wav\t{','.join(t for t in ('x', 'y') if i % (2 + (t == 'y')) == 0)}\n"
    for i in range(12)
)


def batches(source, bad=None, **overrides):
    arguments = {
        "class_names": CLASSES,
        "batch_size": 4,
        "seed": 0,
        "start": 0,
        "max_seconds": 0.4,
        "buckets": 3,
        "bad_examples": bad or BadExamples(source.name, source.num_examples),
        **overrides,
    }
    return training_dataset(source, **arguments)


def take(dataset, count):
    return list(dataset.take(count).as_numpy_iterator())


def rows_of(result):
    """(real samples, label) of each row."""
    return [
        (wave[real], label)
        for inputs, labels in result
        for wave, real, label in zip(
            inputs["waveform"], inputs["padding_mask"], labels, strict=True
        )
    ]


def find(row, waves):
    """Which of the waves a normalised row is a part of, and where that part begins."""
    for index, wave in enumerate(waves):
        if len(wave) < len(row):
            continue
        start = int(np.argmax(np.correlate(wave.astype("float64"), row.astype("float64"), "valid")))
        if np.abs(normalized(wave[start : start + len(row)]) - row).max() < 1e-3:
            return index, start
    raise AssertionError("the row is no part of any utterance")


def assert_equal(one, other):
    assert len(one) == len(other)
    for (inputs, labels), (other_inputs, other_labels) in zip(one, other, strict=True):
        np.testing.assert_array_equal(labels, other_labels)
        for name in ("waveform", "padding_mask"):
            np.testing.assert_array_equal(inputs[name], other_inputs[name])


@pytest.fixture
def waves():
    return [noise(i, s) for i, s in enumerate(SECONDS)]


@pytest.fixture
def folder(tmp_path):
    write_tree(tmp_path, SECONDS, CLASSES)  # the i-th is of class i % 3
    return open_speech_source(f"folder:{tmp_path}")


@pytest.fixture
def tagged(tmp_path):
    write_tree(tmp_path, SECONDS[:12], ("a", "b", "c"))
    (tmp_path / "t.tsv").write_text(TAG_TABLE)
    return open_speech_source(f"table:{tmp_path}/t.tsv")


def test_every_clip_has_its_own_label_in_batches_of_one_size(folder, waves):
    plan = plan_training(folder, batch_size=4, max_seconds=0.4, buckets=3)
    assert plan.batches_per_epoch == 6 and len(plan.shapes) == 3
    dataset = batches(folder)
    assert dataset.element_spec[0]["waveform"].shape == (4, None)
    assert dataset.element_spec[1].shape == (4, 3)
    result = take(dataset, 6)
    assert {b[0]["waveform"].shape for b in result} == set(plan.shapes)
    seen, starts = [], []
    for row, label in rows_of(result):
        index, start = find(row, waves)
        seen.append(index)
        assert label.dtype == np.float32 and label.tolist() == np.eye(3)[index % 3].tolist()
        assert len(row) == min(len(waves[index]), round(0.4 * RATE))
        starts.append(start if len(waves[index]) > 0.4 * RATE else 0)
    assert sorted(seen) == list(range(24))  # an epoch
    assert len(set(starts)) > 5  # crops at random places
    single = batches(folder, buckets=1).element_spec[0]
    assert single["waveform"].shape == single["padding_mask"].shape == (4, 6400)


def test_a_mixture_is_that_of_its_two_and_so_is_its_label(folder, waves):
    options = {"buckets": 1, "batch_size": 24, "max_seconds": 1.0}  # all, whole
    plain = take(batches(folder, **options), 1)[0]
    mixed = take(batches(folder, mixup=0.8, mixup_probability=0.5, **options), 1)[0]
    pure = plain[0]["waveform"].astype("float64")
    lengths = plain[0]["padding_mask"].sum(axis=1)
    num_mixed = 0
    for i in range(24):
        wave, real = mixed[0]["waveform"][i].astype("float64"), mixed[0]["padding_mask"][i]
        # What it is made of, by least squares; noise is independent. Padding is zero in all.
        parts = np.linalg.lstsq(pure.T, wave, rcond=None)[0]
        partner = int(np.argmax(np.where(np.arange(24) == i, -1, parts)))
        if parts[partner] < 0.01:
            np.testing.assert_allclose(wave, pure[i], atol=1e-3)
            np.testing.assert_array_equal(mixed[1][i], plain[1][i])
            continue
        num_mixed += 1
        weight = parts[i] / (parts[i] + parts[partner])
        expected = weight * plain[1][i] + (1 - weight) * plain[1][partner]
        np.testing.assert_allclose(mixed[1][i], expected, atol=0.01)
        assert real.sum() == max(lengths[i], lengths[partner])
        assert abs(wave[real].mean()) < 1e-4 and abs(wave[real].std() - 1) < 1e-3
        assert not wave[~real].any()
    assert 6 <= num_mixed <= 18


def test_a_later_start_continues_and_shards_are_rows_of_the_whole(folder):
    options = {"mixup": 1.0}
    whole = take(batches(folder, **options), 9)  # past an epoch
    assert_equal(whole[4:], take(batches(folder, start=16, **options), 5))
    other = take(batches(folder, seed=1, **options), 9)
    shapes, others = ([inputs["waveform"].shape for inputs, _ in run] for run in (whole, other))
    assert shapes != others  # batches in another order
    plain = take(batches(folder), 2)
    for shard in range(2):
        part = take(batches(folder, batch_size=2, num_shards=2, shard=shard), 2)
        for (inputs, labels), (all_inputs, all_labels) in zip(part, plain, strict=True):
            np.testing.assert_array_equal(inputs["waveform"], all_inputs["waveform"][shard::2])
            np.testing.assert_array_equal(labels, all_labels[shard::2])
    with pytest.raises(DataError, match="begin at utterance 6, which is no multiple of the batch"):
        batches(folder, start=6)


SCRIPT = """
import sys
import numpy as np
from d2v_tf.data.speech_sources import open_speech_source
from tests.data.test_audio_labelled import batches, take
source = open_speech_source(sys.argv[1])
inputs, labels = take(batches(source, start=8, mixup=1.0), 1)[0]
np.savez(sys.argv[2], labels=labels, **inputs)
"""


def test_another_process_of_another_backend_hears_the_same(folder, tmp_path):
    subprocess.run(
        [sys.executable, "-c", SCRIPT, folder.name, str(tmp_path / "heard.npz")],
        env={**os.environ, "KERAS_BACKEND": "torch"},
        check=True,
    )
    heard = np.load(tmp_path / "heard.npz")
    assert_equal(take(batches(folder, start=8, mixup=1.0), 1), [(heard, heard["labels"])])


def test_tags_are_multi_hot(tagged, waves):
    assert find_classes(tagged) == ("x", "y")
    names = ("w", "y", "x")  # the model's own, in an order of its own
    lines = []
    bad = BadExamples(tagged.name, 12, warn=lines.append)
    result = take(batches(tagged, bad, class_names=names, batch_size=3), 4)
    seen = []
    for row, label in rows_of(result):
        index = find(row, waves)[0]
        seen.append(index)
        assert label.tolist() == [0, index % 3 == 0, index % 2 == 0]
    assert sorted(seen) == list(range(12))  # those without a tag too
    assert lines == [f"{tagged.name} has no example of 1 of the 3 classes: w"]


def test_evaluation_gives_each_clip_once_with_its_label(folder, tagged, waves):
    for source, names in ((folder, ("zoe", *CLASSES)), (tagged, ("y", "x"))):
        result = take(
            evaluation_dataset(
                source,
                class_names=names,
                batch_seconds=1.0,
                max_seconds=0.3,
                bad_examples=BadExamples(source.name, source.num_examples, warn=str),
                keep=np.arange(source.num_examples) != 5,
            ),
            30,
        )
        seen = []
        for row, label in rows_of(result):
            index, start = find(row, waves)
            seen.append(index)
            room = max(0, len(waves[index]) - round(0.3 * RATE))
            assert abs(start - room // 2) <= 1  # the middle
            one_hot = np.eye(4)[1 + index % 3].tolist()
            several = [index % 3 == 0, index % 2 == 0]
            assert label.tolist() == (one_hot if source is folder else several)
        left_out = {int(source.names[5][-8:-4])}
        assert sorted(seen) == sorted(set(range(source.num_examples)) - left_out)


def test_a_file_that_cannot_be_read_is_replaced_with_the_others_label(tmp_path, waves):
    paths = write_tree(tmp_path, SECONDS, CLASSES)
    source = open_speech_source(f"folder:{tmp_path}")  # its header was still good
    for path in (paths[3], paths[10]):
        path.write_bytes(path.read_bytes()[:100])
    bad = BadExamples(source.name, 24, max_bad=0.2, warn=str)
    rows = rows_of(take(batches(source, bad), 6))
    assert bad.count == 2 and len(rows) == 24
    for row, label in rows:
        assert label.argmax() == find(row, waves)[0] % 3
    bad = BadExamples(source.name, 24, max_bad=0.2, warn=str)
    result = take(
        evaluation_dataset(source, class_names=CLASSES, batch_seconds=1.0, bad_examples=bad), 30
    )
    assert bad.count == 2 and len(rows_of(result)) == 22


def test_files_without_a_label_are_left_out(tmp_path, waves):
    write_tree(tmp_path, SECONDS[:6], ("a",))
    rows = "".join(f"a/{i:04}.wav\t{('', 'u', 'v')[i % 3]}\n" for i in range(6))
    (tmp_path / "t.tsv").write_text("path\tclass\n" + rows)
    source = open_speech_source(f"table:{tmp_path}/t.tsv")
    result = take(batches(source, class_names=("u", "v")), 3)
    for row, label in rows_of(result):
        index = find(row, waves)[0]
        assert index % 3 and label.argmax() == index % 3 - 1
    (tmp_path / "t.tsv").write_text("path\tclass\na/0000.wav\t\n")
    source = open_speech_source(f"table:{tmp_path}/t.tsv")
    with pytest.raises(DataError, match="none of the 1 files of .*t.tsv has a label"):
        batches(source)


def test_records_have_one_shape_and_their_labels(tmp_path, waves):
    with tf.io.TFRecordWriter(str(tmp_path / "part")) as writer:
        for i in range(9):
            label = -1 if i == 4 else i % 3
            writer.write(serialize_utterance(waves[i], f"utterance {i}", label=label))
    source = open_speech_source(f"tfrecord:{tmp_path}/part")
    assert find_classes(source, num_classes=3) == ("0", "1", "2")
    for evaluates in (False, True):
        lines = []
        bad = BadExamples(source.name, 9, max_bad=0.2, warn=lines.append)
        if evaluates:
            dataset = evaluation_dataset(
                source, class_names=CLASSES, batch_seconds=1.0, max_seconds=0.25, bad_examples=bad
            )
        else:
            dataset = batches(source, bad, max_seconds=0.25)
            assert dataset.element_spec[0]["waveform"].shape == (4, 4000)
        rows = rows_of(take(dataset, 3))
        assert len(rows) == (8 if evaluates else 12)
        for row, label in rows:
            assert label.argmax() == find(row, waves)[0] % 3 and label.sum() == 1
        assert bad.count == 1 and "it has no label" in lines[0]
    whole = take(batches(source, bad, mixup=1.0), 4)
    assert_equal(whole[2:], take(batches(source, bad, mixup=1.0, start=8), 2))


def test_a_class_that_the_model_lacks_is_named(folder):
    bad = BadExamples(folder.name, 24)
    for build in (
        lambda names: batches(folder, class_names=names),
        lambda names: evaluation_dataset(
            folder, class_names=names, batch_seconds=1.0, bad_examples=bad
        ),
    ):
        with pytest.raises(DataError, match="has 1 classes that the model does not know: cid"):
            build(("ann", "bob"))
