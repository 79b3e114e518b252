"""Connected digits from single ones: real voices, and as many transcribed utterances as wanted."""

import os
import re

import numpy as np
import soundfile

from d2v_tf.data.audio_files import SAMPLE_RATE
from d2v_tf.data.prepare_speech import write_manifest
from d2v_tf.data.reading import DataError
from d2v_tf.data.speech_sources import SpeechFiles, open_speech_source
from d2v_tf.data.synthetic_speech import DIGITS
from d2v_tf.data.writing import writing

# The Free Spoken Digit Dataset's names of files.
NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[^_]+)_\d+\.\w+")
WORDS = (2, 6)
SILENCE = (0.05, 0.25)  # seconds between two words


def connect_digits(spec, out, name="train", count=1000, seed=0, advance=None):
    """Joins recordings of single digits into utterances of two to six, each of one speaker.

    The speakers take turns; digits, recordings and the silence between them (50 to 250 ms) are
    drawn at random, with replacement. The same arguments give the same bytes.

    Args:
        spec: str. `folder:PATH`, a folder of `DIGIT_SPEAKER_NUMBER.wav`, of any sample rate.
        out: str. A folder, made if need be. Gets `NAME/SPEAKER/NUMBER.wav`, 16 kHz, and the
            manifest `NAME.tsv` with `NAME.wrd` and `NAME.ltr`.
        name: str.
        count: int. Utterances.
        seed: int.
        advance: optional callable(done, total).

    Returns:
        str. The path of the manifest.

    Raises:
        DataError: where the folder has no such files, a recording cannot be read, the manifest
            exists already, or `out` cannot be written.
    """
    manifest = os.path.join(out, f"{name}.tsv")
    if os.path.exists(manifest):
        raise DataError(
            f"data: {manifest} exists already. Remove it, or choose another --out or --name."
        )
    recordings = _by_speaker(open_speech_source(spec), spec)
    names, lengths, transcripts = [], [], []
    with writing(out):
        for number in range(count):
            speaker = sorted(recordings)[number % len(recordings)]
            waveform, words = _utterance(recordings[speaker], np.random.RandomState([seed, number]))
            path = os.path.join(out, name, speaker, f"{number:05}.wav")
            os.makedirs(os.path.dirname(path), exist_ok=True)
            soundfile.write(path, waveform, SAMPLE_RATE, subtype="PCM_16")
            names.append(path)
            lengths.append(len(waveform))
            transcripts.append(" ".join(words))
            if advance:
                advance(number + 1, count)
        utterances = SpeechFiles(spec, names, np.array(lengths), transcripts=transcripts)
        write_manifest(utterances, range(count), manifest, root=out)
    return manifest


def _by_speaker(source, spec):
    """Speaker -> list of (word, waveform)."""
    recordings = {}
    for index, path in enumerate(source.names):
        found = NAME.fullmatch(os.path.basename(path))
        if found:
            try:
                waveform = source.read(index)
            except ValueError as error:
                raise DataError(f"data: {path} cannot be read: {error}. Remove it.") from None
            word = DIGITS[int(found["digit"])]
            recordings.setdefault(found["speaker"], []).append((word, waveform))
    if not recordings:
        raise DataError(
            f"data: {spec} has no recordings of single digits: {source.num_examples} files were "
            f"seen (first: {source.names[0]}), none of them is called DIGIT_SPEAKER_NUMBER.wav, "
            "such as 7_jackson_12.wav."
        )
    return recordings


def _utterance(recordings, rng):
    parts, words = [], []
    for place in range(rng.randint(WORDS[0], WORDS[1] + 1)):
        word, waveform = recordings[rng.randint(len(recordings))]
        if place:
            parts.append(np.zeros(round(rng.uniform(*SILENCE) * SAMPLE_RATE), "float32"))
        parts.append(waveform)
        words.append(word)
    return np.clip(np.concatenate(parts), -1, 1), words
