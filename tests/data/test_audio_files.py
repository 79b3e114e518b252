"""Audio files: what was written comes back at 16 kHz, and what cannot be read says why."""

import errno
import io
import os
import tarfile
import types

import numpy as np
import pytest
import soundfile

from d2v_tf.backbones.preprocessing import normalize_waveform
from d2v_tf.data import audio_files
from d2v_tf.data.audio_files import AudioError, audio_length, read_audio
from tests.data.audio import RATE, noise, tone


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
def test_a_tone_comes_back_at_16_khz(tmp_path, ending, rate, channels):
    path = tmp_path / f"tone.{ending}"
    soundfile.write(path, tone(1000, 1.5, rate, channels), rate)
    wave = read_audio(str(path))
    assert wave.dtype == np.float32 and wave.ndim == 1
    assert abs(len(wave) - 1.5 * RATE) <= 1 and abs(audio_length(str(path)) - 1.5 * RATE) <= 1
    middle = wave[RATE // 4 : -RATE // 4]  # a whole second: bins of 1 Hz
    spectrum = np.abs(np.fft.rfft(middle)) / (len(middle) / 2)
    assert spectrum.argmax() == 1000
    # Its loudness is the mean of the channels, and there is nothing else.
    assert abs(spectrum[1000] - 0.5) < (0.01 if ending in ("wav", "flac") else 0.05)
    assert np.sqrt((np.delete(spectrum, 1000) ** 2).sum()) < 0.05


def test_samples_at_16_khz_are_not_touched(tmp_path):
    wave = noise(0, 1.0)
    for ending in ("wav", "flac"):
        soundfile.write(tmp_path / f"a.{ending}", wave, RATE)
        np.testing.assert_array_equal(read_audio(str(tmp_path / f"a.{ending}")), wave)
    with io.BytesIO((tmp_path / "a.flac").read_bytes()) as file:
        np.testing.assert_array_equal(read_audio(file), wave)


def test_the_content_counts_and_not_the_suffix(tmp_path):
    soundfile.write(tmp_path / "a.mp3", tone(500, 1.0), RATE)
    (tmp_path / "a.wav").write_bytes((tmp_path / "a.mp3").read_bytes())
    np.testing.assert_array_equal(
        read_audio(str(tmp_path / "a.wav")), read_audio(str(tmp_path / "a.mp3"))
    )


@pytest.mark.parametrize("place", [0.0, 0.37, 1 - 1e-9])
@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
def test_a_part_is_that_part_of_the_whole(tmp_path, ending, place):
    path = str(tmp_path / f"a.{ending}")
    soundfile.write(path, noise(1, 3.0), RATE)
    whole = read_audio(path)
    part = read_audio(path, max_samples=RATE, place=place)
    first = int(place * (len(whole) - RATE + 1))
    assert len(part) == RATE
    np.testing.assert_allclose(part, whole[first : first + RATE], atol=1e-6)


def test_a_part_of_a_file_of_another_rate(tmp_path):
    path = str(tmp_path / "a.wav")
    seconds = np.arange(3 * 44_100) / 44_100
    soundfile.write(path, np.sin(2 * np.pi * 200 * seconds * (1 + seconds)), 44_100)  # it rises
    whole, part = read_audio(path), read_audio(path, max_samples=RATE, place=0.5)
    assert len(part) == RATE
    np.testing.assert_allclose(part[100:-100], whole[RATE:][100 : RATE - 100], atol=0.02)


def corrupt(path, how):
    data = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "text": b"this is not audio, whatever its name says " * 20,
            "truncated": data[: len(data) // 2],
            "noise": data[: len(data) // 3] + bytes(range(1, 256)) * 8 + data[len(data) // 3 :],
        }[how]
    )


@pytest.mark.parametrize(
    ("ending", "how", "message"),
    [
        ("wav", "empty", r"the file is empty \(0 bytes\)"),
        ("mp3", "empty", r"the file is empty \(0 bytes\)"),
        ("wav", "text", "corrupt or no audio: Format not recognised"),
        ("flac", "text", "corrupt or no audio: Format not recognised"),
        ("flac", "truncated", "corrupt or no audio: flac decoder lost sync"),
        ("flac", "noise", "corrupt or no audio: flac decoder lost sync"),
        ("ogg", "truncated", "it holds no samples"),
        ("mp3", "truncated", r"its header promises 32000 samples and \d+ are missing"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path, ending, how, message):
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, noise(2, 2.0), RATE)
    corrupt(path, how)
    with pytest.raises(AudioError, match=message):
        read_audio(str(path))


@pytest.mark.parametrize("part", [{}, {"max_samples": 16000, "place": 0.9}])
def test_a_header_that_promises_terabytes_says_so(tmp_path, part):
    path = tmp_path / "a.mp3"
    soundfile.write(path, noise(2, 2.0), RATE)
    data = bytearray(path.read_bytes())
    count = data.index(b"Xing") + 8  # frames of 576 samples
    data[count : count + 4] = (2**29).to_bytes(4, "big")
    path.write_bytes(data)
    with pytest.raises(AudioError, match=r"its header promises \d{12} samples"):
        read_audio(str(path), **part)


def test_missing_short_and_infinite_files_say_so(tmp_path):
    with pytest.raises(AudioError, match="there is no such file"):
        read_audio(str(tmp_path / "nowhere.wav"))
    with pytest.raises(AudioError, match="there is no such file"):
        audio_length(str(tmp_path))
    path = str(tmp_path / "a.wav")
    soundfile.write(path, noise(3, 0.3), RATE)
    assert len(read_audio(path, min_samples=4800)) == 4800
    with pytest.raises(AudioError, match="it is 0.3 s long, shorter than the 2 s needed"):
        read_audio(path, min_samples=2 * RATE)
    soundfile.write(path, np.zeros(0), RATE)
    with pytest.raises(AudioError, match="it holds no samples"):
        read_audio(path)
    for bad in (np.nan, np.inf):
        wave = noise(3, 0.3)
        wave[100] = bad
        soundfile.write(path, wave, RATE, subtype="FLOAT")
        with pytest.raises(AudioError, match="no finite numbers"):
            read_audio(path)


def test_normalization_is_hugging_faces():
    from transformers import Wav2Vec2FeatureExtractor

    wave = noise(4, 1.0) * 1e-3 + 0.2
    expected = Wav2Vec2FeatureExtractor(do_normalize=True)(
        wave, sampling_rate=RATE, return_tensors="np"
    )
    np.testing.assert_allclose(normalize_waveform(wave), expected.input_values[0], atol=1e-4)
    np.testing.assert_array_equal(normalize_waveform(np.zeros(100, "float32")), np.zeros(100))


def test_a_part_of_a_real_mp3_does_not_crackle(shared_data):
    # Its frames borrow bits from those before them: after a jump 7 of these 40 parts begin wrong.
    name = "librispeech/audio/1462/170138/1462-170138-0025.mp3"
    with tarfile.open(shared_data / "librispeech.tar") as tar:
        data = tar.extractfile(name).read()
    whole = read_audio(io.BytesIO(data))
    for place in np.linspace(0, 1, 40, endpoint=False):
        part = read_audio(io.BytesIO(data), max_samples=RATE, place=place)
        first = int(place * (len(whole) - RATE + 1))
        np.testing.assert_allclose(part, whole[first : first + RATE], rtol=0, atol=1e-5)


def test_what_the_file_system_says_may_pass(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    path.write_bytes(b"no audio")
    with pytest.raises(AudioError, match="no audio: Format not recognised") as caught:
        audio_length(path)
    assert not caught.value.may_pass

    def stat(_):
        raise OSError(errno.ESTALE, "Stale file handle")

    fails = types.SimpleNamespace(stat=stat, PathLike=os.PathLike)
    monkeypatch.setattr(audio_files, "os", fails)
    with pytest.raises(AudioError, match="it cannot be read .Stale file handle.") as caught:
        audio_length(path)
    assert caught.value.may_pass
