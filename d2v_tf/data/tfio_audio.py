"""tensorflow-io's audio decoders and resampler, where they load.

Their binary fits one minor version of TensorFlow. With any other, or without the extra `audio-io`,
nothing of tensorflow-io is imported, and soundfile and soxr do the work. Decoded samples are equal
within 1e-5, resampled ones but for the highest frequencies (see `resample`), so there is nothing to
set: the installed packages decide, as they decide TensorFlow's own rounding, and a run is continued
as it was begun where they stay. The summary of a run says which it is; `pip uninstall
tensorflow-io` switches this off.
"""

import functools
import importlib.metadata
import math
import os

import numpy as np
import tensorflow as tf
from packaging.requirements import Requirement

# By libsndfile's names of format and subtype: the operation, and the type it decodes to. Samples
# are soundfile's: PCM exactly, MP3 and Vorbis within 2e-6, none shifted (886 MP3, 320 OGG, 600 WAV
# files, 2026-11). Files a CPU second, here and by soundfile: MP3 140 and 597, OGG 90 and 475,
# WAV 1,643 and 2,451, with resampling from 8 kHz 707 and 6,386. Not here:
# - FLAC: equal too, but of 200 damaged files three never came back from `decode_flac`.
# - 32-bit PCM in WAV, which is taken for floats.
# - Opus, AIFF, 64-bit floats, A-law and others, which are refused.
DECODERS = {
    ("WAV", "PCM_U8"): ("decode_wav", tf.uint8),
    ("WAV", "PCM_16"): ("decode_wav", tf.int16),
    ("WAV", "PCM_24"): ("decode_wav", tf.int32),
    ("WAV", "FLOAT"): ("decode_wav", tf.float32),
    ("WAVEX", "PCM_U8"): ("decode_wav", tf.uint8),
    ("WAVEX", "PCM_16"): ("decode_wav", tf.int16),
    ("WAVEX", "PCM_24"): ("decode_wav", tf.int32),
    ("WAVEX", "FLOAT"): ("decode_wav", tf.float32),
    ("OGG", "VORBIS"): ("decode_vorbis", None),
    ("MP3", "MPEG_LAYER_III"): ("decode_mp3", None),
}
# Samples of the lower rate that the resampler's filter spans.
FILTER_LENGTH = 64


@functools.cache
def native():
    """The module tensorflow_io, or `None` unless its native operations load."""
    if not _is_built_for(tf.__version__):
        return None
    try:
        import tensorflow_io
        from tensorflow_io.python.ops import core_ops

        core_ops.io_audio_resample  # noqa: B018  loads the library
    except (NotImplementedError, ImportError, OSError):  # not loadable here: soundfile reads
        return None
    return tensorflow_io


def decode(file, audio):
    """Decodes a file.

    Not a part of one. soundfile looks a part up (1 s after 9 minutes: 0.3 ms in WAV, 1.2 in OGG;
    here 30 to 360, 11). Of a long MP3, which it decodes from the start, `AudioIOTensor` would be
    faster (8 ms for 135, and of 1,980 parts none crackled), but it read 90 of 750 parts of damaged
    files that soundfile refuses, and others from another place: runs would skip other files.

    Args:
        file: str or binary file object; the object's position is kept.
        audio: the same file as a `soundfile.SoundFile`, which has read its header.

    Returns:
        float32 `[audio.frames, audio.channels]`, or `None` where that is soundfile's work: the
        operations do not load, are no good for this format, refuse the file, or find another length
        than its header says. So what is wrong with a file is said in the same words everywhere.
    """
    if (audio.format, audio.subtype) not in DECODERS or native() is None:
        return None
    operation, dtype = DECODERS[audio.format, audio.subtype]
    options = {"dtype": dtype} if dtype else {}
    try:
        with tf.device("CPU:0"):
            samples = getattr(native().audio, operation)(_contents(file), **options).numpy()
    except tf.errors.OpError:
        return None
    return _in_floats(samples) if samples.shape == (audio.frames, audio.channels) else None


def resample(waveform, rate, new_rate):
    """Resamples float32 `[N]`, with the length and the timing that soxr gives it.

    The difference is below -75 dB up to 85% of the highest frequency that the lower rate holds;
    above, this filter falls earlier than soxr's. 10 s take 15 ms from 8 kHz and 126 from 44.1, with
    soxr 0.5 and 1.4 (one core, 2026-11).
    """
    taps = FILTER_LENGTH
    if rate > new_rate:  # as long in time as at the lower rate, and a multiple of 8
        taps = -(-(FILTER_LENGTH * rate // new_rate) // 8) * 8
    # The operation leaves the filter's delay in. Zeros before make it a whole number of samples
    # at the new rate, which are cut off; zeros behind let the end through.
    delay, period = taps // 2, rate // math.gcd(rate, new_rate)
    before = -delay % period
    padded = np.pad(waveform, (before, delay + period))
    with tf.device("CPU:0"):
        # Not `audio.resample`, which traces a graph at every call: 30 ms.
        resampled = native().python.ops.core_ops.io_audio_resample(
            padded[:, None], rate_in=rate, rate_out=new_rate
        )
    first = (before + delay) * new_rate // rate
    length = (2 * len(waveform) * new_rate + rate) // (2 * rate)  # rounded, halves up
    return resampled.numpy()[first : first + length, 0]


def _is_built_for(version):
    """Whether tensorflow-io is installed and names this version of TensorFlow as its own."""
    try:
        requirements = importlib.metadata.requires("tensorflow-io") or []
    except importlib.metadata.PackageNotFoundError:
        return False
    wanted = [r for r in map(Requirement, requirements) if r.name == "tensorflow"]
    return any(r.specifier.contains(version, prereleases=True) for r in wanted)


def _contents(file):
    if isinstance(file, (str, os.PathLike)):
        with open(file, "rb") as opened:
            return opened.read()
    position = file.tell()
    file.seek(0)
    contents = file.read()
    file.seek(position)
    return contents


def _in_floats(samples):
    """Samples in the range that soundfile gives them, [-1, 1) if they are integers."""
    if samples.dtype == np.uint8:
        return (samples.astype("float32") - 128) / 128
    if samples.dtype.kind == "i":
        return samples.astype("float32") / -np.float32(np.iinfo(samples.dtype).min)
    return samples
