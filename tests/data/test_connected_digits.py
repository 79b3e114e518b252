"""Connected digits: the recordings are found again, the silence between them, one speaker each."""

import filecmp

import numpy as np
import pytest
import soundfile

from d2v_tf.data.audio_files import read_audio
from d2v_tf.data.connected_digits import connect_digits
from d2v_tf.data.reading import DataError
from d2v_tf.data.speech_sources import open_speech_source
from d2v_tf.data.synthetic_speech import DIGITS
from tests.data.audio import noise


@pytest.fixture
def recordings(tmp_path):
    """(digit, speaker) -> waveform at 16 kHz, of files at 8 kHz, each of noise of its own."""
    folder, waves = tmp_path / "single", {}
    folder.mkdir()
    for digit in range(10):
        for place, speaker in enumerate(("ann", "bob")):
            wave = noise(10 * digit + place, 0.1 + 0.01 * digit)
            path = folder / f"{digit}_{speaker}_3.wav"
            soundfile.write(path, wave, 8000)
            waves[digit, speaker] = read_audio(str(path))
    (folder / "notes.txt").write_text("no audio")
    return f"folder:{folder}", waves


def test_words_are_the_speakers_recordings_with_silence_between(recordings, tmp_path):
    spec, waves = recordings
    manifest = connect_digits(spec, str(tmp_path / "out"), "train", count=30, seed=1)
    source = open_speech_source(f"manifest:{manifest}")
    assert source.num_examples == 30 and source.class_names == {"class": ("ann", "bob")}
    counts, gaps = set(), []
    for index, text in enumerate(source.transcripts):
        wave, words = source.read(index), text.split()
        assert source.lengths[index] == len(wave)
        counts.add(len(words))
        speaker, place = ("ann", "bob")[source.labels["class"][index]], 0
        for number, word in enumerate(words):
            if number:
                start = place + int(np.argmax(wave[place:] != 0))
                gaps.append((start - place) / 16000)
                place = start
            part = waves[DIGITS.index(word), speaker]
            np.testing.assert_allclose(wave[place : place + len(part)], part, atol=1e-4)
            place += len(part)
        assert place == len(wave)
    assert counts == {2, 3, 4, 5, 6}
    assert 0.045 < min(gaps) < 0.08 and 0.2 < max(gaps) <= 0.255


def test_the_same_arguments_give_the_same_bytes_wherever(recordings, tmp_path):
    spec, _ = recordings
    for name in ("one", "two"):
        connect_digits(spec, str(tmp_path / name), "train", count=4, seed=1)
    other = open_speech_source(
        f"manifest:{connect_digits(spec, str(tmp_path / 'three'), 'train', count=4, seed=2)}"
    )
    names = [str(p.relative_to(tmp_path / "one")) for p in (tmp_path / "one").rglob("*.*")]
    assert len(names) == 4 + 3
    match, mismatch, errors = filecmp.cmpfiles(
        tmp_path / "one", tmp_path / "two", names, shallow=False
    )
    assert not mismatch and not errors and len(match) == 7
    (tmp_path / "one").rename(tmp_path / "moved")  # the manifest names no folder outside its own
    moved = open_speech_source(f"manifest:{tmp_path / 'moved' / 'train.tsv'}")
    assert len(moved.read(0)) == moved.lengths[0]
    assert moved.transcripts != other.transcripts


def test_what_cannot_be_connected_is_refused(recordings, tmp_path):
    spec, _ = recordings
    out = str(tmp_path / "out")
    connect_digits(spec, out, "train", count=1)
    with pytest.raises(DataError, match="train.tsv exists already"):
        connect_digits(spec, out, "train", count=1)
    soundfile.write(tmp_path / "hello.wav", noise(0, 0.1), 8000)
    (tmp_path / "other").mkdir()
    (tmp_path / "hello.wav").rename(tmp_path / "other" / "hello.wav")
    with pytest.raises(DataError, match="DIGIT_SPEAKER_NUMBER.wav"):
        connect_digits(f"folder:{tmp_path / 'other'}", out, "test", count=1)
    (tmp_path / "single" / "1_ann_4.wav").write_bytes(b"")
    with pytest.raises(DataError, match="1_ann_4.wav cannot be read: the file is empty"):
        connect_digits(spec, out, "test", count=1)
