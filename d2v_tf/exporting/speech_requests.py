"""Waveforms and WAV files in a request, as the backbone's input."""

import functools

import numpy as np
import tensorflow as tf

from d2v_tf.backbones.preprocessing import SAMPLE_RATE, Data2VecAudioConverter
from d2v_tf.backbones.speech_frontend import receptive_field
from d2v_tf.exporting.requests import (
    ExportError,
    Requests,
    check_as_many,
    check_each,
    check_one,
)
from d2v_tf.exporting.wav import decode_wavs

LOUDEST = 1e9
# Attention takes memory by the square of the length: of a Base model, for each tensor of its
# weights [1, 12, T, T], 0.4 GB at 60 seconds, and 43 GB at ten minutes.
MAX_SECONDS = 60.0


def speech_requests(backbone, converter, max_seconds=None):
    """How a speech model is asked: by waveforms, by padded waveforms, by WAV files.

    Args:
        backbone: `Data2VecSpeechBackbone`.
        converter: `Data2VecAudioConverter`; `None` for one, as it has no settings.
        max_seconds: optional float. Longer waveforms are refused. Defaults to `MAX_SECONDS`.

    Returns:
        list of three `Requests`. A signature of TensorFlow Serving has no inputs that may be left
        out of a REST request, so `lengths` makes a signature of its own.

    Raises:
        ExportError: for a converter of another kind, and seconds that are too few for the model.
    """
    converter = Data2VecAudioConverter() if converter is None else converter
    if not isinstance(converter, Data2VecAudioConverter):
        raise ExportError(
            f"A speech model needs a Data2VecAudioConverter to be served. Received: {converter}."
        )
    shortest = receptive_field(backbone.conv_kernel_sizes, backbone.conv_strides)
    max_seconds = MAX_SECONDS if max_seconds is None else max_seconds
    longest = int(max_seconds * SAMPLE_RATE)
    if longest < shortest:
        raise ExportError(
            f"max_seconds: {max_seconds:g} is less than the {shortest / SAMPLE_RATE:g} that the "
            "model needs."
        )
    prepare = functools.partial(_inputs_of, converter, shortest, longest)

    def of_waveforms(waveform):
        batch, samples = tf.unstack(tf.shape(waveform))
        return prepare(waveform, tf.fill([batch], samples))

    def of_files(wav_bytes):
        return prepare(*decode_wavs(wav_bytes, longest))

    size = min(SAMPLE_RATE, longest)
    noise = 0.1 * np.random.default_rng(0).normal(size=(1, size)).astype("float32")
    file = tf.audio.encode_wav(noise[0][:, None], SAMPLE_RATE).numpy()
    waveform = tf.TensorSpec([None, None], tf.float32)
    lengths = tf.TensorSpec([None], tf.int32)
    return [
        Requests("", {"waveform": waveform}, of_waveforms, {"waveform": noise}),
        Requests(
            "padded",
            {"waveform": waveform, "lengths": lengths},
            prepare,
            {"waveform": noise, "lengths": np.array([max(size - 1000, shortest)], "int32")},
        ),
        Requests(
            "wav",
            {"wav_bytes": tf.TensorSpec([None], tf.string)},
            of_files,
            {"wav_bytes": np.array([file], object)},
        ),
    ]


def _inputs_of(converter, shortest, longest, waveform, lengths):
    """What the backbone takes, of waveforms `[B, N]` of which `lengths` `[B]` samples are real."""
    with check_as_many(waveform=waveform, lengths=lengths):
        lengths = tf.identity(lengths)
    samples = tf.shape(waveform)[1]
    too_long = (
        f"has {{}} samples, padding counted, and the model takes at most {longest}: "
        f"{longest / SAMPLE_RATE:g} seconds"
    )
    with check_one(samples <= longest, 0, too_long, samples):
        waveform = tf.identity(waveform)
    with check_each(lengths <= samples, "is shorter than its length says, {} samples", lengths):
        lengths = tf.identity(lengths)
    too_short = f"has {{}} samples, and the model needs at least {shortest}"
    with check_each(lengths >= shortest, too_short, lengths):
        lengths = tf.identity(lengths)
    real = tf.sequence_mask(lengths, samples)
    # Also false for a NaN. Larger ones have squares that no float holds.
    fits = tf.reduce_all((tf.abs(waveform) <= LOUDEST) | ~real, axis=1)
    with check_each(fits, f"has samples that are no numbers, or beyond {LOUDEST:g}"):
        lengths = tf.identity(lengths)
    return converter(waveform, lengths=lengths)
