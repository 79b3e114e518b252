"""The synthetic speech: the same every time, and as speech-like as it claims."""

import numpy as np
import pytest
import soundfile
from sklearn.linear_model import LogisticRegression

from d2v_tf.data import synthetic_speech
from d2v_tf.data.speech_sources import SpeechFiles, open_speech_source


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(synthetic_speech, "SPLITS", {"train": 60, "test": 20})


def files_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_it_is_bit_identical_when_made_again(small, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    one, other = (files_of(tmp_path / synthetic_speech.synthesize(str(f))) for f in folders)
    assert len(one) == 60 + 20 + 4 and one == other


def test_it_is_made_once_and_not_left_half_made(small, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(soundfile, "write", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            synthetic_speech.synthesize(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    told = []
    folder = synthetic_speech.synthesize(str(tmp_path), lambda *now: told.append(now))
    assert told == [(n, 80) for n in range(1, 81)]
    monkeypatch.setattr(soundfile, "write", lambda *a, **k: 1 / 0)
    assert synthetic_speech.synthesize(str(tmp_path)) == folder


def test_the_source_has_transcripts_digits_and_speakers(small, tmp_path):
    source = open_speech_source("builtin", cache_dir=str(tmp_path))
    assert isinstance(source, SpeechFiles) and source.num_examples == 60 and not source.problems
    assert source.class_names["speaker"] == tuple(f"speaker_{i}" for i in range(10))
    assert np.bincount(source.labels["speaker"]).tolist() == [6] * 10
    single = source.labels["digit"] >= 0
    assert single.sum() == 30
    for text, digit in zip(source.transcripts, source.labels["digit"], strict=True):
        words = text.split(" ")
        assert set(words) <= set(synthetic_speech.DIGITS) and len(words) <= 6
        assert (len(words) == 1) == (digit >= 0)
        if digit >= 0:
            assert source.class_names["digit"][digit] == text
    assert open_speech_source("builtin:test", cache_dir=str(tmp_path)).num_examples == 20


def test_utterances_last_one_to_four_seconds_and_differ():
    waves = [synthetic_speech.utterance("train", i)[0] for i in range(40)]
    lengths = np.array([len(w) for w in waves]) / 16_000
    assert lengths.min() >= 1.0 and lengths.max() <= 4.0 and len(set(lengths)) > 15
    assert all(0.2 < np.abs(w).max() / 32767 < 0.8 for w in waves)
    again = synthetic_speech.utterance("test", 0)[0]
    assert len(again) != len(waves[0]) or (again != waves[0]).any()


def test_formants_and_pitch_are_those_of_the_table():
    voice = {"pitch": 100.0, "formants": 1.0, "breath": 0.0, "pace": 1.0}
    durations = np.array([5, 100, 5])
    for vowel in ("AA", "IY", "UW"):
        rng = np.random.RandomState(0)
        sound = synthetic_speech._sound([None, vowel, None], durations, voice, rng)
        vowel_sound = sound[1600:9601]
        emphasized = np.diff(vowel_sound)  # of the voice's own slope
        spectrum = np.abs(np.fft.rfft(emphasized * np.hanning(8000)))  # bins of 2 Hz
        frequencies = np.arange(len(spectrum)) * 2
        # The loudest harmonic is next to the first formant, less than a pitch away.
        first = synthetic_speech.PHONEMES[vowel][1][0]
        assert abs(frequencies[spectrum.argmax()] - first) < 120
        # Its period is that of the voice, which falls from 110 Hz and wanders.
        correlation = np.correlate(vowel_sound, vowel_sound, "full")[len(vowel_sound) :]
        assert 85 < 16_000 / (correlation[100:250].argmax() + 101) < 125


def log_spectra(wave):
    """Mean and deviation over time of 24 bands, a floor for what speech features can tell."""
    windows = np.lib.stride_tricks.sliding_window_view(wave.astype(float), 400)[::160]
    power = np.abs(np.fft.rfft(windows * np.hanning(400), axis=1)) ** 2
    edges = np.unique((np.geomspace(4, 200, 25)).astype(int))
    bands = np.log(np.add.reduceat(power, edges, axis=1) + 1e4)
    thirds = [part.mean(axis=0) for part in np.array_split(bands, 3)]
    return np.concatenate([*thirds, bands.std(axis=0)])


def test_digits_and_speakers_can_be_told_apart():
    numbers = [n for n in range(800) if n // 10 % 2 == 0]  # the utterances of one word
    made = [synthetic_speech.utterance("train", n) for n in numbers[:200]]
    features = np.array([log_spectra(wave) for wave, _, _ in made])
    features = (features - features.mean(0)) / features.std(0)
    for labels in ([words[0] for _, words, _ in made], [speaker for *_, speaker in made]):
        probe = LogisticRegression(max_iter=300).fit(features[:150], labels[:150])
        assert probe.score(features[150:], labels[150:]) > 0.5  # chance is 0.1
