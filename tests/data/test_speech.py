"""The speech pipeline: batches, crops, normalisation, masks, and files that cannot be read."""

import os
import threading
import types

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from d2v_tf.data import speech_batches
from d2v_tf.data.audio_files import AudioError
from d2v_tf.data.reading import BadExamples, DataError
from d2v_tf.data.speech import evaluation_dataset, plan_batches, pretraining_dataset
from d2v_tf.data.speech_batches import read_into
from d2v_tf.data.speech_records import serialize_utterance
from d2v_tf.data.speech_sources import open_speech_source
from tests.data.audio import (
    RATE,
    noise,
    normalized,
    num_frames,
    random_mask,
    write_manifest,
    write_tree,
)

# Utterances of 0.1 to 0.68 s; crops of at most 0.5 s, batches of 2 s.
SECONDS = [0.1 + 0.02 * i for i in range(30)]
OPTIONS = {"batch_seconds": 2.0, "min_seconds": 0.1, "max_seconds": 0.5, "buckets": 3}
NAMES = ("waveform", "padding_mask", "mask")


def train_batches(source, bad=None, **overrides):
    arguments = {
        **OPTIONS,
        "seed": 0,
        "start": 0,
        "span_mask": random_mask,
        "num_frames": num_frames,
        "bad_examples": bad or BadExamples(source.name, source.num_examples),
        **overrides,
    }
    return pretraining_dataset(source, **arguments)


def take(dataset, count):
    return list(dataset.take(count).as_numpy_iterator())


def rows_of(batches):
    """The real samples of each row."""
    return [
        wave[real]
        for batch in batches
        for wave, real in zip(batch["waveform"], batch["padding_mask"], strict=True)
    ]


def find(row, waves):
    """Which of the waves a normalised row is a part of, and where that part begins."""
    for index, wave in enumerate(waves):
        if len(wave) < len(row):
            continue
        # The place with the highest correlation; noise correlates with nothing else.
        start = int(np.argmax(np.correlate(wave.astype("float64"), row.astype("float64"), "valid")))
        if np.abs(normalized(wave[start : start + len(row)]) - row).max() < 1e-3:
            return index, start
    raise AssertionError("the row is no part of any utterance")


@pytest.fixture
def waves():
    return [noise(i, s) for i, s in enumerate(SECONDS)]


@pytest.fixture
def folder(tmp_path):
    write_tree(tmp_path / "speech", SECONDS, classes=("all",))
    return open_speech_source(f"folder:{tmp_path / 'speech'}")


@pytest.fixture
def sharded(tmp_path, waves):
    for part in range(3):
        with tf.io.TFRecordWriter(str(tmp_path / f"part-{part}")) as writer:
            for i in range(part, 30, 3):
                writer.write(serialize_utterance(waves[i], f"utterance {i}", label=i % 4))
    return open_speech_source(f"tfrecord:{tmp_path}/part-*")


def test_shapes_are_few_static_and_within_the_budget(folder):
    plan = plan_batches(folder, **{**OPTIONS, "batch_seconds": 1.0})
    assert len(plan.shapes) == 3 and plan.shapes[-1] == (2, RATE // 2)
    batches = take(train_batches(folder, batch_seconds=1.0), plan.batches_per_epoch)
    assert {b["waveform"].shape for b in batches} == set(plan.shapes)
    for batch in batches:
        size, length = batch["waveform"].shape
        assert size * length <= RATE < (size + 1) * length
        assert batch["padding_mask"].shape == (size, length)
        assert batch["mask"].shape == (size, num_frames(length))
        assert [batch[name].dtype for name in NAMES] == [np.float32, bool, bool]
    single = train_batches(folder, buckets=1).element_spec
    assert single["waveform"].shape == single["padding_mask"].shape == (4, RATE // 2)
    assert single["mask"].shape == (4, num_frames(RATE // 2))


def test_records_have_one_static_shape(sharded):
    spec = train_batches(sharded).element_spec
    assert spec["waveform"].shape == spec["padding_mask"].shape == (4, RATE // 2)
    assert spec["mask"].shape == (4, num_frames(RATE // 2))


def test_every_utterance_comes_once_an_epoch_normalized_and_padded_with_zeros(folder, waves):
    plan = plan_batches(folder, **OPTIONS)
    batches = take(train_batches(folder), plan.batches_per_epoch)
    found = []
    for row in rows_of(batches):
        index, start = find(row, waves)
        assert len(row) == min(len(waves[index]), RATE // 2)
        assert 0 <= start <= len(waves[index]) - len(row)
        found.append(index)
    assert set(found) == set(range(30)) and len(found) < 30 + plan.shapes[-1][0]
    for batch in batches:
        assert (batch["waveform"][~batch["padding_mask"]] == 0).all()
        # What is real comes first.
        assert (np.diff(batch["padding_mask"].astype(int), axis=1) <= 0).all()


def test_records_come_once_an_epoch_normalized_and_padded_with_zeros(sharded, waves):
    batches = take(train_batches(sharded, batch_seconds=5.0), 3)  # 10 examples a batch
    found = [find(row, waves)[0] for row in rows_of(batches)]
    assert sorted(found) == list(range(30))
    for batch in batches:
        assert (batch["waveform"][~batch["padding_mask"]] == 0).all()


@pytest.mark.parametrize("kind", ["folder", "sharded"])
def test_crops_are_anywhere_and_anew_in_each_epoch(kind, request):
    waves = [noise(29, SECONDS[29])]
    source = request.getfixturevalue(kind)
    number = 200 if kind == "folder" else 160
    starts = []
    for row in rows_of(take(train_batches(source, seed=3), number)):
        if len(row) == RATE // 2:
            try:
                starts.append(find(row, waves)[1])
            except AssertionError:
                continue  # another utterance of at least half a second
    room = len(waves[0]) - RATE // 2
    assert len(starts) > 15 and len(set(starts)) > len(starts) / 2
    assert min(starts) < 0.3 * room and max(starts) > 0.7 * room and max(starts) <= room


@pytest.mark.parametrize("kind", ["folder", "sharded"])
def test_a_run_is_repeated_and_resumed_from_any_batch(kind, request):
    source = request.getfixturevalue(kind)
    whole = take(train_batches(source), 24)  # past two epochs
    for start in (1, 13, 20):
        again = take(train_batches(source, start=start), 24 - start)
        for one, other in zip(whole[start:], again, strict=True):
            for name in NAMES:
                np.testing.assert_array_equal(one[name], other[name])
    other = take(train_batches(source, seed=1), 1)[0]
    for name in ("waveform", "mask"):
        assert other[name].shape != whole[0][name].shape or (other[name] != whole[0][name]).any()


@pytest.mark.parametrize("kind", ["folder", "sharded"])
def test_shards_share_the_rows_out(kind, request):
    source = request.getfixturevalue(kind)
    whole = take(train_batches(source, multiple_of=2, start=3), 6)
    shards = [take(train_batches(source, num_shards=2, shard=i, start=3), 6) for i in range(2)]
    for number, batch in enumerate(whole):
        for name in NAMES:
            for i in range(2):
                np.testing.assert_array_equal(shards[i][number][name], batch[name][i::2])


def test_masks_are_told_seeds_and_real_frames(folder):
    told = []

    def span_mask(seeds, lengths, total):
        told.append((total, tuple(seeds.shape), tuple(lengths.shape)))
        mask = tf.sequence_mask(lengths, total)  # all that is real
        return tf.where(seeds[:, 1:] % 2 == 0, mask, tf.zeros_like(mask))

    plan = plan_batches(folder, **OPTIONS)
    batches = take(train_batches(folder, span_mask=span_mask), plan.batches_per_epoch)
    assert set(told) == {(num_frames(n), (b, 2), (b,)) for b, n in plan.shapes}
    for batch in batches:
        frames = num_frames(batch["padding_mask"].sum(axis=1))
        expected = np.arange(batch["mask"].shape[1]) < frames[:, None]
        expected[1::2] = False  # neighbors have neighboring seeds
        np.testing.assert_array_equal(batch["mask"], expected)


def test_the_same_utterance_gets_another_mask_in_each_epoch(tmp_path):
    write_tree(tmp_path, [0.5])
    batches = take(train_batches(open_speech_source(f"folder:{tmp_path}"), buckets=1), 3)
    masks = np.concatenate([b["mask"] for b in batches])
    assert len({mask.tobytes() for mask in masks}) == len(masks) == 12


def test_short_utterances_are_left_out_in_one_line(folder, waves):
    lines = []
    bad = BadExamples(folder.name, 30, warn=lines.append)
    batches = take(train_batches(folder, bad, min_seconds=0.3), 20)
    assert min(len(row) for row in rows_of(batches)) == round(0.3 * RATE)
    assert len(lines) == 1 and bad.count == 0
    start = f"10 of 30 utterances of {folder.name} are shorter than 0.3 s (first: {folder.names[0]}"
    assert lines[0].startswith(start) and lines[0].endswith("0.1 s) and are left out")
    with pytest.raises(
        DataError,
        match="25 of 30 utterances .* half of all are shorter .* Lower the limit, data.min_seconds",
    ):
        train_batches(folder, min_seconds=0.6)


def test_short_records_are_padded(sharded):
    rows = rows_of(take(train_batches(sharded, min_seconds=0.3), 8))
    assert min(len(row) for row in rows) == round(0.1 * RATE)


def damage(path, how):
    """Makes a file unreadable, at once or only when its samples are decoded."""
    if how == "header":
        path.write_bytes(b"")
    elif how == "samples":
        soundfile.write(path, np.full(RATE // 4, np.nan, "float32"), RATE, subtype="FLOAT")
    elif how == "gone":
        path.unlink()


@pytest.mark.parametrize("how", ["header", "samples", "gone"])
def test_a_bad_file_is_named_counted_and_replaced(tmp_path, how):
    paths = write_tree(tmp_path, SECONDS, classes=("all",))
    if how == "gone":
        source = open_speech_source(f"folder:{tmp_path}")
    clean = take(train_batches(open_speech_source(f"folder:{tmp_path}")), 12)
    damage(paths[8], how)
    if how != "gone":
        source = open_speech_source(f"folder:{tmp_path}")
    lines = []
    bad = BadExamples(source.name, 30, max_bad=0.1, warn=lines.append)
    batches = take(train_batches(source, bad), 12)
    assert bad.count == 1 and bad.error is None and len(lines) == 1
    reason = {"header": "empty", "samples": "no finite numbers", "gone": "no such file"}[how]
    assert lines[0].startswith(f"{paths[8]} is skipped: ") and reason in lines[0]
    again = take(train_batches(source, BadExamples("x", 30, 0.1, str)), 12)
    for one, other in zip(batches, again, strict=True):
        np.testing.assert_array_equal(one["waveform"], other["waveform"])
    if how == "gone":  # the plan is the same: only the bad one's place has another utterance
        changed = sum(
            (one["waveform"] != other["waveform"]).any(axis=1).sum()
            for one, other in zip(clean, batches, strict=True)
        )
        assert 1 <= changed <= 3


@pytest.mark.parametrize("how", ["header", "samples"])
def test_too_many_bad_files_stop_the_run(tmp_path, how):
    paths = write_tree(tmp_path, SECONDS, classes=("all",))
    for path in paths[10:14]:
        damage(path, how)
    source = open_speech_source(f"folder:{tmp_path}")
    bad = BadExamples(source.name, 30, max_bad=0.1, warn=str)
    with pytest.raises((DataError, tf.errors.OpError)):
        take(train_batches(source, bad), 12)
    message = str(bad.error)
    assert f"4 of 30 examples of folder:{tmp_path} could not be read (first: {tmp_path}" in message


def test_nothing_but_bad_files_is_an_error_too(tmp_path):
    for path in write_tree(tmp_path, [0.25, 0.25]):
        damage(path, "samples")
    source = open_speech_source(f"folder:{tmp_path}")
    bad = BadExamples(source.name, 2, max_bad=1.0, warn=str)
    with pytest.raises(tf.errors.OpError):
        take(train_batches(source, bad), 1)
    assert isinstance(bad.error, DataError) and "2 of 2 examples" in str(bad.error)


def test_a_bad_record_is_named_counted_and_replaced(tmp_path, waves):
    silent = tf.train.Example.FromString(serialize_utterance(waves[0], "the broken one"))
    silent.features.feature["audio/pcm"].bytes_list.value[0] = b"\0\0" * 100
    with tf.io.TFRecordWriter(str(tmp_path / "part")) as writer:
        for i in range(12):
            record = serialize_utterance(waves[i], f"utterance {i}")
            writer.write(silent.SerializeToString() if i == 3 else record)
    source = open_speech_source(f"tfrecord:{tmp_path}/part")
    lines = []
    bad = BadExamples(source.name, 12, max_bad=0.1, warn=lines.append)
    batch = take(train_batches(source, bad, batch_seconds=6.0, shuffle=False), 1)
    found = [find(row, waves)[0] for row in rows_of(batch)]
    assert found == [0, 1, 2, 4, *range(4, 12)]
    assert bad.count == 1 and lines[0].startswith("the broken one (CRC32 ")
    assert "shorter than the 0.025 s needed" in lines[0]


def test_a_manifest_that_is_wrong_about_lengths_does_no_harm(tmp_path):
    # More than the files that are looked at, so that the wrong ones are believed.
    paths = write_tree(tmp_path, [0.3] * 100, classes=("all",))
    rows = [(f"all/{p.name}", 4800) for p in paths]
    rows[7] = rows[7][0], 8000
    rows[1:6] = [(name, 1600) for name, _ in rows[1:6]]
    source = open_speech_source(write_manifest(tmp_path / "a.tsv", rows))
    assert source.lengths[7] == 8000 and (source.lengths[1:6] == 1600).all()
    for bucket_lengths in ([0.1, 0.3], 3):
        batches = take(train_batches(source, batch_seconds=0.5, buckets=bucket_lengths), 150)
        assert {len(row) for row in rows_of(batches)} == {1600, 4800}


def evaluate(source, bad=None, **overrides):
    options = {"batch_seconds": 2.0, "max_seconds": 0.5, "buckets": 3, **overrides}
    bad = bad or BadExamples(source.name, source.num_examples)
    return list(evaluation_dataset(source, bad_examples=bad, **options).as_numpy_iterator())


@pytest.mark.parametrize("kind", ["folder", "sharded"])
def test_evaluation_has_everything_once_the_middle_of_what_is_long(kind, request, waves):
    batches = evaluate(request.getfixturevalue(kind))
    rows = rows_of([inputs for inputs, _ in batches])
    found = [find(row, waves) for row in rows]
    assert sorted(index for index, _ in found) == list(range(30))
    for (index, start), row in zip(found, rows, strict=True):
        room = len(waves[index]) - len(row)
        assert len(row) == min(len(waves[index]), RATE // 2) and abs(start - room / 2) <= 1
    labels = np.concatenate([labels for _, labels in batches])
    expected = [index % 4 if kind == "sharded" else -1 for index, _ in found]
    assert labels.tolist() == expected and labels.dtype == np.int64
    for inputs, _ in batches:
        assert inputs["waveform"].size <= 2 * RATE
        assert (inputs["waveform"][~inputs["padding_mask"]] == 0).all()


def test_evaluation_gives_the_label_asked_for_and_keeps_what_is_wanted(tmp_path, waves):
    paths = write_tree(tmp_path, SECONDS, classes=("ann", "bob", "cem"))
    source = open_speech_source(f"folder:{tmp_path}")
    speakers = [("ann", "bob", "cem").index(p.parent.name) for p in paths]
    wanted = np.arange(30) % 2 == 0
    source.labels["even"] = np.where(wanted, np.arange(30), -1)
    for label, keep in (("class", wanted), ("even", None), (None, wanted)):
        batches = evaluate(source, label=label, keep=keep)
        labels = np.concatenate([labels for _, labels in batches])
        expected = source.labels["even"] if label == "even" else np.array(speakers)
        assert sorted(labels) == sorted(expected[wanted])
    in_order = [waves[int(p.stem)] for p in paths]
    for inputs, labels in evaluate(source, label="even"):
        for row, label in zip(rows_of([inputs]), labels, strict=True):
            assert find(row, in_order)[0] == label
    with pytest.raises(DataError, match="has no label 'digit'; it has class, even"):
        evaluate(source, label="digit")


def test_evaluation_of_nothing_that_is_wanted_is_empty(folder):
    """As of a folder too small for every fifth utterance to be one: the probe says so, and goes."""
    assert evaluate(folder, keep=np.zeros(30, bool)) == []


def test_evaluation_leaves_bad_and_short_files_out(tmp_path):
    paths = write_tree(tmp_path, [0.01, *SECONDS])
    damage(paths[5], "samples")
    damage(paths[6], "header")
    source = open_speech_source(f"folder:{tmp_path}")
    lines = []
    bad = BadExamples(source.name, 31, max_bad=0.2, warn=lines.append)
    assert sum(len(labels) for _, labels in evaluate(source, bad)) == 28
    assert bad.count == 3 and any("0.01 s long, shorter than the 0.025 s" in x for x in lines)


def test_datasets_share_the_threads_that_decode(folder):
    before, datasets = set(threading.enumerate()), []
    for i in range(os.cpu_count() + 1):
        bad = BadExamples(folder.name, folder.num_examples)
        datasets.append(train_batches(folder, bad))
        datasets.append(evaluation_dataset(folder, batch_seconds=2.0, bad_examples=bad))
        for dataset in datasets[2 * i :]:
            take(dataset, 1)
    started = set(threading.enumerate()) - before
    pools = [t for t in started if not isinstance(t, threading._DummyThread)]
    assert len(pools) <= os.cpu_count()


@pytest.mark.parametrize(
    ("may_pass", "times", "pauses", "num_bad"),
    [(True, 2, [1.0, 5.0], 0), (True, 3, [1.0, 5.0], 1), (False, 3, [], 1)],
)
def test_a_file_system_that_fails_is_asked_again(monkeypatch, may_pass, times, pauses, num_bad):
    made, reads = [], []

    def read(index, **_):
        reads.append(index)
        if len(reads) <= times:
            raise AudioError("busy", may_pass)
        return np.ones(4, "float32")

    monkeypatch.setattr(speech_batches, "time", types.SimpleNamespace(sleep=made.append))
    source = types.SimpleNamespace(names=["a.wav"], read=read)
    bad, row = BadExamples("files", 1, max_bad=1.0, warn=str), np.zeros(4, "float32")
    assert read_into(row, source, 0, 1, 0.0, bad) == (0 if num_bad else 4)
    assert made == pauses and bad.count == num_bad
    reads.clear()  # what is known to be bad costs no pause again
    read_into(row, source, 0, 1, 0.0, bad)
    assert len(made) == len(pauses) * (1 if num_bad else 2)
