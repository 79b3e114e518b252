"""Speech that needs no download: digits spoken by ten synthetic voices, with transcripts.

Formant synthesis: a train of glottal pulses goes through three resonators that follow the formants
of the phonemes, noise through a fourth one where a phoneme has friction or a burst. Voices differ
in pitch, length of the vocal tract, breath and pace. It sounds like an early computer, but has what
a speech model has to find: phonemes in words, words in sentences, and speakers behind them.
"""

import os
import shutil
import tempfile

import numpy as np
import scipy.fft
import soundfile

from d2v_tf.data.audio_files import SAMPLE_RATE

# A part of the folder's name: raised whenever the files change.
VERSION = 1
SPLITS = {"train": 800, "test": 200}
NUM_SPEAKERS = 10
HOP, WINDOW, FFT = 160, 320, 1024  # samples: 10 and 20 ms, and room for the resonators to ring
BANDWIDTHS = np.array([[70.0], [100.0], [150.0]])  # Hz, of the three formants
NOISE_FLOOR = 1e-3

# Duration in ms; three formants in Hz; loudness of the voice; loudness, center and bandwidth in Hz
# of the noise. Vowels after Peterson and Barney (1952), the rest from textbooks and by ear.
PHONEMES = {
    "AA": (130, (730, 1090, 2440), 1.0, 0.0, 5000, 3000),
    "AH": (110, (620, 1190, 2390), 1.0, 0.0, 5000, 3000),
    "AO": (120, (570, 840, 2410), 1.0, 0.0, 5000, 3000),
    "EH": (100, (530, 1840, 2480), 1.0, 0.0, 5000, 3000),
    "IH": (80, (390, 1990, 2550), 1.0, 0.0, 5000, 3000),
    "IY": (130, (270, 2290, 3010), 0.9, 0.0, 5000, 3000),
    "OW": (110, (480, 900, 2350), 1.0, 0.0, 5000, 3000),
    "UH": (70, (360, 880, 2250), 0.8, 0.0, 5000, 3000),
    "UW": (150, (300, 870, 2240), 0.9, 0.0, 5000, 3000),
    "N": (85, (260, 1450, 2500), 0.35, 0.0, 5000, 3000),
    "R": (75, (330, 1150, 1550), 0.7, 0.0, 5000, 3000),
    "W": (70, (300, 650, 2200), 0.6, 0.0, 5000, 3000),
    "F": (95, (300, 1100, 2300), 0.0, 0.12, 6500, 4000),
    "S": (115, (320, 1700, 2600), 0.0, 0.2, 6000, 1500),
    "TH": (90, (300, 1400, 2500), 0.0, 0.1, 5500, 5000),
    "V": (65, (290, 1100, 2300), 0.35, 0.06, 6500, 4000),
    "Z": (90, (300, 1700, 2600), 0.35, 0.12, 6000, 1500),
    "K": (30, (320, 1900, 2500), 0.0, 0.6, 1900, 500),
    "T": (30, (320, 1800, 2600), 0.0, 0.4, 4200, 1500),
    "closure": (55, (300, 1700, 2600), 0.0, 0.0, 5000, 3000),
}
WORDS = {
    "zero": "Z IH R OW UH",
    "one": "W AH N",
    "two": "closure T UW",
    "three": "TH R IY",
    "four": "F AO R",
    "five": "F AA IY V",
    "six": "S IH closure K S",
    "seven": "S EH V AH N",
    "eight": "EH IY closure T",
    "nine": "N AA IY N",
}
DIGITS = tuple(WORDS)


def synthesize(cache, advance=None):
    """Writes all utterances into a folder of the cache, unless they are there already.

    Args:
        cache: str. A folder, made if need be.
        advance: optional callable(done, total), told how many utterances have been made. All take
            about 10 s on a core.

    Returns:
        str. The folder: `{train,test}.tsv` with `.wrd` and `.ltr` beside them, and the WAV files in
        `SPLIT/SPEAKER/`. The bytes are the same every time.
    """
    folder = os.path.join(cache, f"synthetic_speech_{VERSION}")
    if os.path.isdir(folder):
        return folder
    os.makedirs(cache, exist_ok=True)
    # Whole or not at all, also if two runs start at once.
    unfinished = tempfile.mkdtemp(prefix="synthetic_speech_", dir=cache)
    try:
        done = 0
        for split, count in SPLITS.items():
            for _ in _write_split(unfinished, split, count):
                done += 1
                if advance:
                    advance(done, sum(SPLITS.values()))
        try:
            os.rename(unfinished, folder)
        except OSError:
            if not os.path.isdir(folder):
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def utterance(split, number):
    """One utterance.

    The voices take turns. For every other round of them it is one digit, again in turn, else two to
    six digits at random.

    Args:
        split: str in `SPLITS`.
        number: int, from 0.

    Returns:
        waveform: int16 `[N]`, 1 to 4 seconds at 16 kHz.
        words: list of str.
        speaker: int.
    """
    # RandomState's streams are the same in every version of NumPy.
    rng = np.random.RandomState([list(SPLITS).index(split), number])
    turn, speaker = divmod(number, NUM_SPEAKERS)
    if turn % 2 == 0:
        words = [DIGITS[turn // 2 % len(DIGITS)]]
    else:
        words = [DIGITS[i] for i in rng.randint(0, len(DIGITS), size=rng.randint(2, 7))]
    voice = _voice(speaker)
    phonemes, durations = _phonemes(words, voice, rng)
    sound = _sound(phonemes, durations, voice, rng)
    peak = 0.25 + 0.5 * rng.rand()
    return np.round(sound * (peak * 32767 / np.abs(sound).max())).astype("int16"), words, speaker


def _write_split(folder, split, count):
    """Yields after each utterance."""
    rows, texts = [], []
    for number in range(count):
        waveform, words, speaker = utterance(split, number)
        path = os.path.join(split, f"speaker_{speaker}", f"{number:04}.wav")
        os.makedirs(os.path.join(folder, os.path.dirname(path)), exist_ok=True)
        soundfile.write(os.path.join(folder, path), waveform, SAMPLE_RATE, subtype="PCM_16")
        rows.append(f"{path}\t{len(waveform)}\n")
        texts.append(" ".join(words))
        yield
    with open(os.path.join(folder, f"{split}.tsv"), "w", encoding="utf-8") as file:
        file.writelines([".\n", *rows])
    with open(os.path.join(folder, f"{split}.wrd"), "w", encoding="utf-8") as file:
        file.writelines(f"{text}\n" for text in texts)


def _voice(speaker):
    """Pitch in Hz, scale of the formants, breath and pace of a speaker; men and women in turn."""
    rng = np.random.RandomState(1000 + speaker)
    pitch, formants = ((95, 0.92), (180, 1.1))[speaker % 2]
    return {
        "pitch": pitch * (1 + 0.12 * (speaker // 2)),
        "formants": formants * (0.94 + 0.03 * (speaker // 2)),
        "breath": 0.01 + 0.05 * rng.rand(),
        "pace": 0.85 + 0.3 * rng.rand(),
    }


def _phonemes(words, voice, rng):
    """The phonemes of an utterance, pauses as `None`, and their durations in frames."""
    phonemes, seconds = [None], [0.1 + 0.15 * rng.rand()]
    for word in words:
        if phonemes[-1] is not None:
            phonemes.append(None)
            seconds.append(0.03 + 0.15 * rng.rand())
        for phoneme in WORDS[word].split():
            phonemes.append(phoneme)
            seconds.append(PHONEMES[phoneme][0] / 1000 * voice["pace"] * (0.85 + 0.3 * rng.rand()))
    phonemes.append(None)
    shortest = 1.01 + 0.3 * rng.rand()
    seconds.append(max(0.1 + 0.15 * rng.rand(), shortest - sum(seconds)))
    return phonemes, np.maximum(np.round(np.array(seconds) * SAMPLE_RATE / HOP), 1).astype(int)


def _sound(phonemes, durations, voice, rng):
    """The sound of phonemes, float64 `[N]`."""
    # In a pause the mouth already has the shape of what comes next, or keeps that of the last.
    known = [next(q for q in [*phonemes[i:], *phonemes[::-1]] if q) for i in range(len(phonemes))]
    table = [PHONEMES[p] for p in known]
    speaks = [p is not None for p in phonemes]
    tracks = np.array(
        [
            [*formants, spoken * voiced, spoken * noise, center, width]
            for (_, formants, voiced, noise, center, width), spoken in zip(
                table, speaks, strict=True
            )
        ]
    ).repeat(durations, axis=0)  # [frames, 7]
    frames = len(tracks)
    formants = np.stack([_smooth(tracks[:, k], 7) for k in range(3)]) * voice["formants"]
    voiced, noise = _smooth(tracks[:, 3], 5), _smooth(tracks[:, 4], 3)

    samples = (frames + 1) * HOP
    time = np.arange(samples)
    # Pitch falls over the utterance and wanders a little.
    wander = _smooth(rng.standard_normal(frames + 20), 21)[10:-10]
    pitch = voice["pitch"] * (1.1 - 0.25 * np.arange(frames) / frames + 0.15 * wander)
    pitch = np.interp(time, (np.arange(frames) + 1) * HOP, pitch)
    pulses = _glottal_flow_derivative(np.cumsum(pitch / SAMPLE_RATE) % 1.0)
    hiss = rng.standard_normal(samples)

    voice_spectra = _spectra(pulses + voice["breath"] * hiss) * voiced[:, None]
    voice_spectra *= _resonances(formants, BANDWIDTHS)
    noise_spectra = _spectra(hiss) * noise[:, None]
    noise_spectra *= _resonances(tracks[None, :, 5], tracks[None, :, 6])
    sound = _overlap_add(voice_spectra + noise_spectra)
    return sound / np.abs(sound).max() + NOISE_FLOOR * rng.standard_normal(len(sound))


def _smooth(track, width):
    """A moving average; the ends are continued."""
    padded = np.pad(track, width // 2, mode="edge")
    return np.convolve(padded, np.ones(width) / width, mode="valid")


def _glottal_flow_derivative(phase):
    """Rosenberg's pulse: the glottis opens for 40% of a period, closes in 8%, then is shut."""
    opening = np.sin(np.pi * phase / 0.4)
    closing = -5.0 * np.sin(np.pi * (phase - 0.4) / 0.16)  # as much air stops as started
    return np.where(phase < 0.4, opening, np.where(phase < 0.48, closing, 0.0))


def _spectra(signal):
    """Spectra of the windows of a signal, complex `[frames, FFT // 2 + 1]`."""
    windows = np.lib.stride_tricks.sliding_window_view(signal, WINDOW)[::HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)  # adds up to 1 at each hop
    return scipy.fft.rfft(windows * hann, FFT)


def _resonances(centers, bandwidths):
    """The response of resonators one after the other, each of gain 1 at 0 Hz.

    Args:
        centers, bandwidths: `[resonators, frames]` in Hz; the second may have a single frame.
    """
    radius = np.exp(-np.pi * bandwidths / SAMPLE_RATE)
    second = -2 * radius * np.cos(2 * np.pi * centers / SAMPLE_RATE)
    third = np.broadcast_to(radius**2, centers.shape)
    polynomial = np.zeros((centers.shape[1], 2 * len(centers) + 1))
    polynomial[:, 0] = 1.0
    for b, c in zip(second, third, strict=True):
        product = polynomial.copy()
        product[:, 1:] += b[:, None] * polynomial[:, :-1]
        product[:, 2:] += c[:, None] * polynomial[:, :-2]
        polynomial = product
    return polynomial.sum(axis=1, keepdims=True) / scipy.fft.rfft(polynomial, FFT)


def _overlap_add(spectra):
    """The signal `[frames * HOP]` of spectra; what rings past its end is cut."""
    windows = scipy.fft.irfft(spectra, FFT)
    parts = windows[:, : FFT // HOP * HOP].reshape(len(windows), -1, HOP)
    signal = np.zeros((len(windows) + parts.shape[1], HOP))
    for k in range(parts.shape[1]):
        signal[k : k + len(windows)] += parts[:, k]
    return signal[: len(windows)].reshape(-1)
