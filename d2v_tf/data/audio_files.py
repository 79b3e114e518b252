"""Audio files of any rate and number of channels, as the waveforms that the backbone takes."""

import os
import stat

import numpy as np
import soundfile
import soxr

from d2v_tf.data import tfio_audio

SAMPLE_RATE = 16_000
# A stream whose header gives no length reports an absurd one.
MAX_FRAMES = 2**40
# Libsndfile's number of an error that the system has given it.
SYSTEM_ERROR = 2


class AudioError(ValueError):
    """Audio that cannot be used. The message says why; whoever catches it knows which file.

    Attributes:
        may_pass: bool. Whether it is the file system that fails, and may do better later.
    """

    def __init__(self, message, may_pass=False):
        super().__init__(message)
        self.may_pass = may_pass


def read_audio(file, min_samples=1, max_samples=None, place=0.0):
    """Reads WAV, FLAC, OGG, MP3 or what else libsndfile knows: 16 kHz, channels averaged.

    soundfile and soxr do the work, or tensorflow-io where its native operations load and are as
    good (see `tfio_audio`); `audio_reader` says which.

    Of a file longer than `max_samples` only a part is decoded (of an MP3, also what is before it),
    so an hour-long recording costs no more than a short one.

    Args:
        file: str or binary file object.
        min_samples: int. The least samples wanted.
        max_samples: optional int. The most samples wanted.
        place: float in [0, 1). Where that part begins, 0 = at the start, towards 1 = as late as
            possible.

    Returns:
        float32 `[N]`, 16,000 samples a second.

    Raises:
        AudioError: for a file that is missing, empty, corrupt or too short, or has samples that are
            no numbers.
    """
    promised = 0
    try:
        with _open(file) as audio:
            rate, num_frames = audio.samplerate, audio.frames
            promised = num_frames
            first = 0
            if max_samples is not None and num_frames * SAMPLE_RATE > max_samples * rate:
                num_frames = -(-max_samples * rate // SAMPLE_RATE)
                first = int(place * (audio.frames - num_frames + 1))
            is_whole = num_frames == audio.frames
            frames = tfio_audio.decode(file, audio) if is_whole else None
            if frames is None:
                if audio.format != "MP3":  # whose frames need those before: they would crackle
                    audio.seek(first)
                    first = 0
                frames = audio.read(first + num_frames, dtype="float32", always_2d=True)[first:]
    except soundfile.SoundFileError as error:
        raise _explained(error) from None
    except MemoryError:
        raise AudioError(f"its header promises {promised} samples, too many to hold") from None
    if len(frames) < num_frames:
        raise AudioError(
            f"its header promises {audio.frames} samples and {num_frames - len(frames)} are missing"
        )
    waveform = frames[:, 0] if frames.shape[1] == 1 else frames.mean(axis=1)
    if not np.isfinite(waveform).all():
        raise AudioError("it has samples that are no finite numbers")
    waveform = resample(waveform, rate)[:max_samples]
    if len(waveform) < max(min_samples, 1):
        raise AudioError(
            f"it is {len(waveform) / SAMPLE_RATE:.3g} s long, shorter than the "
            f"{min_samples / SAMPLE_RATE:.3g} s needed"
        )
    return waveform


def audio_length(path):
    """Samples of a file at 16 kHz, from its header.

    Raises:
        AudioError: as `read_audio`, as far as the header shows it.
    """
    try:
        with _open(path) as audio:
            return round(audio.frames * SAMPLE_RATE / audio.samplerate)
    except soundfile.SoundFileError as error:
        raise _explained(error) from None


def resample(waveform, rate):
    """Resamples float32 `[N]` from `rate` to 16 kHz."""
    if rate == SAMPLE_RATE:
        return waveform
    if tfio_audio.native():
        return tfio_audio.resample(waveform, rate, SAMPLE_RATE)
    # Soxr's default quality: 8 to 16 kHz at 8,600 times real time, 44.1 at 3,900 (1 core, 2026-11).
    return soxr.resample(np.ascontiguousarray(waveform), rate, SAMPLE_RATE)


def audio_reader():
    """str. What decodes and resamples in this environment, for a run's summary."""
    native = tfio_audio.native()
    return f"tensorflow-io {native.__version__}" if native else "soundfile and soxr"


def _open(file):
    if isinstance(file, (str, os.PathLike)):
        # Libsndfile calls these "System error" and "Format not recognised".
        try:
            found = os.stat(file)
        except (FileNotFoundError, NotADirectoryError):
            raise AudioError("there is no such file") from None
        except OSError as error:
            raise AudioError(f"it cannot be read ({error.strerror})", may_pass=True) from None
        if not stat.S_ISREG(found.st_mode):
            raise AudioError("there is no such file")
        if found.st_size == 0:
            raise AudioError("the file is empty (0 bytes)")
    audio = soundfile.SoundFile(file)
    if not 0 < audio.frames < MAX_FRAMES:
        num_frames = audio.frames
        audio.close()
        raise AudioError(
            "it holds no samples" if num_frames <= 0 else "its header does not say how long it is"
        )
    return audio


def _explained(error):
    """What libsndfile says, without the path, which is said elsewhere: an `AudioError`."""
    reason = str(getattr(error, "error_string", error)).removeprefix("Error : ").rstrip(".")
    may_pass = getattr(error, "code", None) == SYSTEM_ERROR
    return AudioError(f"it is corrupt or no audio: {reason}", may_pass)
