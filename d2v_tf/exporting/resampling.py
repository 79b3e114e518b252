"""Resampling in the graph, where soxr, which the training has, cannot be."""

import math

import numpy as np
import tensorflow as tf

from d2v_tf.backbones.preprocessing import SAMPLE_RATE

RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 192000)
# As soxr's default quality: what lies below 0.913 of the lower rate's half passes unchanged, what
# lies above 1 is damped by 120 dB.
PASS, STOP, ATTENUATION = 0.913, 1.0, 120.0
# Of Kaiser's window (Oppenheim and Schafer, Discrete-Time Signal Processing, 7.5.3).
BETA = 0.1102 * (ATTENUATION - 8.7)
HALF_WIDTH = math.ceil((ATTENUATION - 7.95) / (2.285 * math.pi * (STOP - PASS)) / 2)
# Input samples a step at least, so that what frames share is a small part of them.
LEAST_STEP = 441


def resample(waveform, rate):
    """Resamples to 16 kHz by a windowed sinc, written as one matrix product over frames.

    Args:
        waveform: float32 `[N]`.
        rate: int32, one of `RATES`.

    Returns:
        float32 `[N * 16000 / rate]`, rounded.
    """
    ups, downs = zip(*map(_steps, RATES), strict=True)
    place = tf.argmax(tf.equal(rate, RATES))
    up, down = tf.gather(ups, place), tf.gather(downs, place)
    return tf.cond(
        tf.equal(rate, SAMPLE_RATE), lambda: waveform, lambda: _resample(waveform, up, down)
    )


def _steps(rate):
    """So many samples become of so many: (int, int)."""
    common = math.gcd(rate, SAMPLE_RATE)
    repeat = math.ceil(LEAST_STEP / (rate // common))
    return SAMPLE_RATE // common * repeat, rate // common * repeat


def _resample(waveform, up, down):
    total = tf.size(waveform, out_type=tf.int64)
    up_64, down_64 = tf.cast(up, tf.int64), tf.cast(down, tf.int64)
    wanted = tf.cast((2 * total * up_64 + down_64) // (2 * down_64), tf.int32)
    num_frames = (wanted + up - 1) // up
    kernel, reach = _kernel(up, down)
    # A frame holds what the outputs of one step see.
    behind = tf.maximum(num_frames * down + reach - tf.size(waveform), 0)
    padded = tf.pad(waveform, [[reach, behind]])
    frames = tf.signal.frame(padded, 2 * reach + down, down)[:num_frames]
    return tf.reshape(frames @ kernel, [-1])[:wanted]


def _kernel(up, down):
    """What each output of a step takes of each sample in reach, float32 `[2 R + down, up]`; R."""
    ratio = tf.cast(up, tf.float64) / tf.cast(down, tf.float64)
    cutoff = tf.minimum(ratio, 1.0)  # of half the input's rate
    width = HALF_WIDTH / cutoff
    reach = tf.cast(tf.math.ceil(width), tf.int32)
    places = tf.cast(tf.range(up), tf.float64) / ratio  # of the outputs, in input samples
    samples = tf.cast(tf.range(-reach, reach + down), tf.float64)
    distance = places[None] - samples[:, None]
    inside = 1.0 - tf.square(distance / width)
    window = tf.math.bessel_i0(BETA * tf.sqrt(tf.maximum(inside, 0.0))) / np.i0(BETA)
    window *= tf.cast(inside > 0, tf.float64)
    cutoff *= (PASS + STOP) / 2
    angle = math.pi * cutoff * distance
    one = tf.ones_like(angle)
    sinc = tf.where(angle == 0, one, tf.sin(angle) / tf.where(angle == 0, one, angle))
    return tf.cast(cutoff * sinc * window, tf.float32), reach
