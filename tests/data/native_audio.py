"""tensorflow-io's decoders and resampler beside soundfile and soxr.

`test_tfio_audio.py` runs this, with a TensorFlow that tensorflow-io is built for. With the one that
the package asks for there is nothing to compare.
"""

import io
import struct
import tarfile

import numpy as np
import pytest
import soundfile
import soxr
import tensorflow as tf

from d2v_tf.data import tfio_audio
from d2v_tf.data.audio_files import AudioError, audio_reader, read_audio, resample
from tests.data.audio import RATE, noise, tone

# Of decoded samples; those of PCM are equal.
TOLERANCE = 1e-5
# Of resampled ones below this part of the highest frequency: above, tensorflow-io's filter falls
# earlier than soxr's.
BAND, DECIBELS = 0.85, 75
OTHERS = [
    ("FLAC", "PCM_16"),
    ("FLAC", "PCM_24"),
    ("WAV", "PCM_32"),
    ("WAV", "DOUBLE"),
    ("WAV", "ALAW"),
    ("OGG", "OPUS"),
    ("AIFF", "PCM_16"),
]


@pytest.fixture
def decoded(monkeypatch):
    """Whether each call of `decode` since the start of the test was native, a list of bool."""
    calls, decode = [], tfio_audio.decode

    def record(*args):
        frames = decode(*args)
        calls.append(frames is not None)
        return frames

    monkeypatch.setattr(tfio_audio, "decode", record)
    return calls


def read_plainly(file, **options):
    """As `read_audio` where tensorflow-io is absent."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfio_audio, "native", lambda: None)
        return read_audio(file, **options)


def write(path, frames, kind, rate=RATE):
    soundfile.write(path, frames, rate, format=kind[0], subtype=kind[1])


def members(path, ending, every):
    """Some files of an archive of real recordings, each as bytes."""
    with tarfile.open(path) as tar:
        names = sorted(n for n in tar.getnames() if n.endswith(ending))
        return [tar.extractfile(name).read() for name in names[::every]]


def low_band(wave, edge):
    """What of a waveform at 16 kHz is below a frequency."""
    spectrum = np.fft.rfft(wave)
    spectrum[np.fft.rfftfreq(len(wave), 1 / RATE) > edge] = 0
    return np.fft.irfft(spectrum, len(wave))


def decibels(signal, error):
    return 10 * np.log10((signal**2).mean() / (error**2).mean())


def test_the_operations_load():
    assert tfio_audio.native() is not None
    assert audio_reader() == f"tensorflow-io {tfio_audio.native().__version__}"


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("kind", tfio_audio.DECODERS, ids="-".join)
def test_a_file_is_decoded_as_soundfile_does(tmp_path, decoded, kind, channels):
    if kind[0] == "MP3" and channels > 2:
        pytest.skip("MP3 has two channels at most")
    path = str(tmp_path / "a file, décodé")
    frames = np.stack([noise(seed, 1.5) for seed in range(channels)], axis=1)
    write(path, frames, kind)
    expected = read_plainly(path)
    atol = 0 if kind[0].startswith("WAV") else TOLERANCE
    with open(path, "rb") as file:
        for source in (path, file):
            wave = read_audio(source)
            assert wave.dtype == np.float32
            np.testing.assert_allclose(wave, expected, rtol=0, atol=atol)
    assert decoded == [False, True, True]


@pytest.mark.parametrize("kind", OTHERS, ids="-".join)
def test_what_it_does_not_decode_as_well_is_left_to_soundfile(tmp_path, decoded, kind):
    path = str(tmp_path / "a")
    write(path, noise(0, 1.0), kind)
    np.testing.assert_array_equal(read_audio(path), read_plainly(path))
    assert not any(decoded)


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
def test_a_part_is_left_to_soundfile(tmp_path, decoded, ending):
    path = str(tmp_path / f"a.{ending}")
    soundfile.write(path, noise(0, 4.0), RATE)
    whole = read_audio(path)
    for place in np.linspace(0, 1, 5, endpoint=False):
        part = read_audio(path, max_samples=RATE, place=place)
        first = int(place * (len(whole) - RATE + 1))
        np.testing.assert_allclose(part, whole[first : first + RATE], rtol=0, atol=TOLERANCE)
    assert decoded == [ending != "flac"]


@pytest.mark.parametrize("how", ["truncated", "inserted", "overwritten"])
@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
def test_a_damaged_file_is_treated_as_by_soundfile(tmp_path, ending, how):
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, noise(2, 2.0), RATE)
    data, third = path.read_bytes(), len(path.read_bytes()) // 3
    path.write_bytes(
        {
            "truncated": data[: len(data) // 2],
            "inserted": data[:third] + bytes(range(1, 256)) * 8 + data[third:],
            "overwritten": data[:third] + bytes(2000) + data[third + 2000 :],
        }[how]
    )
    try:
        expected = read_plainly(str(path))
    except AudioError as error:
        with pytest.raises(AudioError) as raised:
            read_audio(str(path))
        assert str(raised.value) == str(error)
    else:
        np.testing.assert_allclose(read_audio(str(path)), expected, rtol=0, atol=TOLERANCE)


def wav_bytes(*chunks):
    body = b"".join(
        name + struct.pack("<I", len(data) if size is None else size) + data + bytes(len(data) % 2)
        for name, data, size in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


def test_headers_that_the_operation_misreads_are_left_to_soundfile(decoded):
    layout = (b"fmt ", struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16), None)
    wave = noise(3, 0.5)
    samples = (wave * 32768).astype("<i2").tobytes()
    for chunks in (
        [layout, (b"LIST", b"INFOodd", None), (b"data", samples, None)],  # it finds no samples
        [layout, (b"data", samples, 2**32 - 1)],  # written to a pipe
        [layout, (b"data", samples, len(samples) + 1000)],
    ):
        np.testing.assert_array_equal(read_audio(io.BytesIO(wav_bytes(*chunks))), wave)
    assert decoded == [False] * 3


def test_two_streams_in_one_file_are_left_to_soundfile(tmp_path, decoded):
    data = b""
    for seed in range(2):
        soundfile.write(tmp_path / "a.ogg", noise(seed, 1.0), RATE)
        data += (tmp_path / "a.ogg").read_bytes()
    np.testing.assert_array_equal(read_audio(io.BytesIO(data)), read_plainly(io.BytesIO(data)))
    assert decoded == [False, False]


@pytest.mark.parametrize("rate", [8_000, 11_025, 12_000, 22_050, 24_000, 44_100, 48_000, 96_000])
def test_resampling_is_soxrs_in_the_band_that_both_keep(rate):
    fade = np.hanning(4 * rate)
    wave = (np.random.default_rng(4).normal(0, 0.1, 4 * rate) * fade).astype("float32")
    expected, wave = soxr.resample(wave, rate, RATE), resample(wave, rate)
    assert wave.dtype == np.float32 and len(wave) == len(expected)
    edge = BAND * min(rate, RATE) / 2
    expected, wave = low_band(expected, edge), low_band(wave, edge)
    assert decibels(expected, wave - expected) > DECIBELS
    # Were it late by a hundredth of a sample, it would not be.
    late = np.fft.irfft(
        np.fft.rfft(expected) * np.exp(-2j * np.pi * np.fft.rfftfreq(len(expected)) / 100)
    )
    assert decibels(expected, late - expected) < DECIBELS


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 32_000, 44_100, 44_101])
def test_resampling_gives_soxrs_length(rate):
    for length in [*range(1, 50), 999, 1000, 1001]:
        wave = np.ones(length, "float32")
        assert len(resample(wave, rate)) == len(soxr.resample(wave, rate, RATE))


def test_resampling_keeps_the_ends():
    wave = tone(300, 1.0, 8_000)
    expected = soxr.resample(wave, 8_000, RATE)
    np.testing.assert_allclose(resample(wave, 8_000), expected, rtol=0, atol=0.02)


def test_it_runs_inside_an_input_pipeline():
    # As encoded audio of tensorflow-datasets is read, more at a time than TensorFlow has threads.
    waves = [noise(seed, 0.5) for seed in range(40)]
    records = []
    for wave in waves:
        file = io.BytesIO()
        soundfile.write(file, wave, 8_000, format="WAV")
        records.append(file.getvalue())
    dataset = tf.data.Dataset.from_tensor_slices(records).map(
        lambda record: tf.numpy_function(lambda r: read_audio(io.BytesIO(r)), [record], tf.float32),
        num_parallel_calls=16,
    )
    for read, wave in zip(dataset.as_numpy_iterator(), waves, strict=True):
        np.testing.assert_array_equal(read, resample(wave, 8_000))


@pytest.mark.parametrize(
    ("archive", "ending", "every"),
    [
        ("librispeech.tar", ".mp3", 20),
        ("esc10.tar", ".ogg", 10),
        ("spoken_digits.tar.gz", ".wav", 50),
    ],
)
def test_real_recordings_are_decoded_as_soundfile_does(
    shared_data, decoded, archive, ending, every
):
    recordings = members(shared_data / archive, ending, every)
    assert len(recordings) > 30
    for data in recordings:
        with pytest.MonkeyPatch.context() as patch:  # resampling is another test's
            patch.setattr("d2v_tf.data.audio_files.resample", lambda wave, rate: wave)
            expected, wave = read_plainly(io.BytesIO(data)), read_audio(io.BytesIO(data))
        np.testing.assert_allclose(wave, expected, rtol=0, atol=TOLERANCE)
    assert decoded == [False, True] * len(recordings)


def test_real_speech_is_resampled_as_by_soxr(shared_data):
    for data in members(shared_data / "spoken_digits.tar.gz", ".wav", 50):
        expected, wave = read_plainly(io.BytesIO(data)), read_audio(io.BytesIO(data))
        fade = np.hanning(len(expected))  # their ends are cut, and a cut is of all frequencies
        expected = low_band(expected * fade, BAND * 4000)
        wave = low_band(wave * fade, BAND * 4000)
        assert decibels(expected, wave - expected) > DECIBELS
