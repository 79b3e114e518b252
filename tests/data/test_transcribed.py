"""Batches for recognition: sound and transcript stay together, whole, whatever cannot be read."""

import functools

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from d2v_tf.data.reading import BadExamples, DataError
from d2v_tf.data.speech_sources import open_speech_source
from d2v_tf.data.transcribed import (
    pad_labels,
    plan_transcribed,
    recognition_dataset,
    trainable_utterances,
    transcribed_dataset,
)
from d2v_tf.finetuning.letters import decode_letters, encode_letters, letter_vocabulary
from tests.data.audio import RATE, noise, normalized, num_frames, write_manifest

# Utterances of 0.2 to 0.98 s; the transcript says which one it is.
SECONDS = [0.2 + 0.02 * i for i in range(40)]
WORDS = "zero one two three four five six seven eight nine".split()
TEXTS = [f"{WORDS[i // 10]} {WORDS[i % 10]}" for i in range(40)]
VOCABULARY = letter_vocabulary(TEXTS)
ENCODE = functools.partial(encode_letters, vocabulary=VOCABULARY)
OPTIONS = {"batch_seconds": 4.0, "buckets": 3}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "wav").mkdir()
    for i, seconds in enumerate(SECONDS):
        soundfile.write(tmp_path / "wav" / f"{i:02}.wav", noise(i, seconds), RATE)
    write_manifest(
        tmp_path / "all.tsv", [(f"wav/{i:02}.wav", round(s * RATE)) for i, s in enumerate(SECONDS)]
    )
    (tmp_path / "all.wrd").write_text("".join(f"{text}\n" for text in TEXTS))
    return tmp_path


def opened(folder):
    return open_speech_source(f"manifest:{folder}/all.tsv")


def bad_examples(source, **kwargs):
    lines = []
    bad = BadExamples(source.name, source.num_examples, warn=lines.append, **kwargs)
    return bad, lines


def short_frames(samples):
    """Frames of an encoder of 100 a second, so that all transcripts fit."""
    return samples // 160


def train_batches(source, labels, bad=None, start=0, **kwargs):
    bad = bad or bad_examples(source)[0]
    data = transcribed_dataset(
        source, labels, seed=0, start=start, bad_examples=bad, **{**OPTIONS, **kwargs}
    )
    return data.as_numpy_iterator()


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def assert_pairs(batches):
    """Every row is the whole utterance that its transcript names; returns which."""
    found = []
    for inputs, labels in batches:
        for wave, real, row in zip(inputs["waveform"], inputs["padding_mask"], labels, strict=True):
            index = TEXTS.index(decode_letters(row[row >= 0], VOCABULARY))
            expected = normalized(noise(index, SECONDS[index]))
            assert real.sum() == len(expected) and not wave[~real].any()
            np.testing.assert_allclose(wave[real], expected, atol=2e-3)
            found.append(index)
    return found


def test_sound_and_transcript_belong_together_and_come_once_an_epoch(folder):
    source = opened(folder)
    source, labels = trainable_utterances(source, ENCODE, short_frames, bad_examples(source)[0])
    plan = plan_transcribed(source, **OPTIONS)
    batches = take(train_batches(source, labels), plan.batches_per_epoch)
    found = assert_pairs(batches)
    assert set(found) == set(range(40)) and len(found) < 40 + plan.shapes[-1][0]
    shapes = {(inputs["waveform"].shape, rows.shape) for inputs, rows in batches}
    assert len(shapes) == len(plan.shapes) == 3  # labels are static for a bucket, too
    assert all(rows.dtype == np.int32 for _, rows in batches)


def test_a_batch_is_a_function_of_seed_and_number(folder):
    source = opened(folder)
    source, labels = trainable_utterances(source, ENCODE, short_frames, bad_examples(source)[0])
    unbroken = take(train_batches(source, labels), 25)
    resumed = take(train_batches(source, labels, start=17), 8)
    tf.nest.map_structure(np.testing.assert_array_equal, resumed, unbroken[17:])


def test_one_bucket_has_static_shapes(folder):
    source = opened(folder)
    source, labels = trainable_utterances(source, ENCODE, short_frames, bad_examples(source)[0])
    data = transcribed_dataset(
        source, labels, seed=0, start=0, bad_examples=bad_examples(source)[0],
        batch_seconds=4.0, buckets=1,
    )  # fmt: skip
    inputs, rows = data.element_spec
    assert inputs["waveform"].shape == inputs["padding_mask"].shape == (4, 15680)
    assert rows.shape == (4, max(map(len, TEXTS)))


def test_what_cannot_be_read_is_replaced_with_its_transcript(folder):
    source = opened(folder)
    for i in (3, 11, 30):
        (folder / "wav" / f"{i:02}.wav").write_bytes(b"RIFF" + bytes(50))
    bad, lines = bad_examples(source, max_bad=0.2)
    source, labels = trainable_utterances(source, ENCODE, short_frames, bad)
    plan = plan_transcribed(source, **OPTIONS)
    found = assert_pairs(take(train_batches(source, labels, bad), 3 * plan.batches_per_epoch))
    assert not {3, 11, 30} & set(found)
    assert bad.count == 3 and len(lines) == 3


def test_what_cannot_be_trained_on_is_left_out_and_named(folder):
    texts = list(TEXTS)
    texts[0] = "three three three"  # 17 letters and 3 blanks in 18 frames
    texts[1] = ""  # fits everywhere
    (folder / "all.wrd").write_text("".join(f"{text}\n" for text in texts))
    source = opened(folder)
    bad, lines = bad_examples(source)
    kept, labels = trainable_utterances(
        source, ENCODE, lambda n: (n - 400) // 160 + 1, bad, max_seconds=0.9
    )
    assert kept.num_examples == len(labels) == 40 - 1 - 4
    assert kept.transcripts == texts[1:36] and len(labels[0]) == 0
    assert len(lines) == 2
    assert "4 of 40 utterances" in lines[0] and "longer than 0.9 s" in lines[0]
    assert "36.wav, 0.9 s" in lines[0]
    assert "1 of 40 utterances" in lines[1] and "more letters than frames" in lines[1]
    assert "00.wav, 20 frames needed for 17 letters, 18 there" in lines[1]


def test_too_short_for_a_frame(folder):
    source = opened(folder)
    bad, lines = bad_examples(source)
    kept, _ = trainable_utterances(source, ENCODE, lambda n: int(n > 4000) * 100, bad)
    assert kept.num_examples == 40 - (source.lengths <= 4000).sum()
    assert "are shorter than 0.025 s, a frame, and are left out" in lines[0]


def test_nothing_to_train_on_says_why(folder):
    source = opened(folder)
    with pytest.raises(DataError, match="40 are longer than 0.1 s"):
        trainable_utterances(source, ENCODE, num_frames, bad_examples(source)[0], max_seconds=0.1)


def test_a_source_without_transcripts_is_refused(folder):
    (folder / "all.wrd").unlink()
    source = opened(folder)
    bad, _ = bad_examples(source)
    with pytest.raises(DataError, match="has no transcripts"):
        trainable_utterances(source, ENCODE, num_frames, bad)
    with pytest.raises(DataError, match="has no transcripts"):
        recognition_dataset(source, batch_seconds=4, bad_examples=bad)


def test_a_part_of_a_source(folder):
    (folder / "wav" / "05.wav").write_bytes(b"")
    write_manifest(folder / "all.tsv", [(f"wav/{i:02}.wav", "") for i in range(40)])
    source = opened(folder)
    assert set(source.problems) == {5}
    part = source.only(np.arange(40) % 5 == 0)
    assert part.transcripts == TEXTS[::5] and set(part.problems) == {1}
    assert part.names == source.names[::5] and part.num_examples == 8
    np.testing.assert_array_equal(part.lengths, source.lengths[::5])


def test_recognition_sees_each_utterance_once_and_whole(folder):
    source = opened(folder)
    (folder / "wav" / "07.wav").write_bytes(b"RIFF" + bytes(50))
    bad, _ = bad_examples(source, max_bad=0.1)
    found = []
    for inputs, places in recognition_dataset(source, batch_seconds=4, bad_examples=bad):
        for wave, real, place in zip(
            inputs["waveform"], inputs["padding_mask"], places, strict=True
        ):
            expected = normalized(noise(int(place), SECONDS[place]))
            np.testing.assert_allclose(wave[real], expected, atol=2e-3)
            found.append(int(place))
    assert sorted(found) == [i for i in range(40) if i != 7]


def test_labels_of_several_lengths_are_padded():
    rows = [np.array([1, 2], "int32"), np.array([], "int32")]
    np.testing.assert_array_equal(pad_labels(rows), [[1, 2], [-1, -1]])
    np.testing.assert_array_equal(pad_labels(rows[1:]), [[-1]])
    np.testing.assert_array_equal(pad_labels(rows, 3)[0], [1, 2, -1])
    assert pad_labels([]).shape == (0, 1)
