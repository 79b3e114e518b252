"""WAV files decoded in the graph, as soundfile decodes them.

`tf.audio.decode_wav` knows 16 bits only, and says what it found of other files in their own bytes,
which no client can read.
"""

import functools

import tensorflow as tf

from d2v_tf.backbones.preprocessing import SAMPLE_RATE
from d2v_tf.exporting.requests import check_one
from d2v_tf.exporting.resampling import RATES, resample

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
MOST = 2**30  # bytes
TOO_LONG = "has {{}} samples at {{}} Hz, and the model takes at most {:g} seconds"
# (format, bits) -> function of a string to float32 samples in [-1, 1].
ENCODINGS = {
    (PCM, 8): lambda data: (_raw(data, tf.uint8) - 128) / 128,
    (PCM, 16): lambda data: _raw(data, tf.int16) / 2**15,
    (PCM, 24): lambda data: _raw_24_bits(data) / 2**23,
    (PCM, 32): lambda data: _raw(data, tf.int32) / 2**31,
    (FLOAT, 32): lambda data: _raw(data, tf.float32),
    (FLOAT, 64): lambda data: _raw(data, tf.float64),
}


def decode_wavs(wav_bytes, longest):
    """WAV files as waveforms at 16 kHz, their channels averaged.

    Args:
        wav_bytes: string `[B]`. PCM of 8 to 32 bits or floats, of any rate that `resample` takes.
        longest: int. Samples at 16 kHz that each may have at most: more are refused unread.

    Returns:
        (float32 `[B, N]`, padded with zeros; int32 `[B]`, how many samples each has).
    """
    places = tf.range(tf.shape(wav_bytes)[0])
    spec = tf.RaggedTensorSpec([None], tf.float32, ragged_rank=0)
    decode = functools.partial(_decode, longest)
    waveforms = tf.map_fn(decode, (places, wav_bytes), fn_output_signature=spec)
    return waveforms.to_tensor(), tf.cast(waveforms.row_lengths(), tf.int32)


def _decode(longest, place_and_file):
    place, encoded = place_and_file
    total = tf.strings.length(encoded)
    # Zeros behind it, so that a file may end anywhere.
    padded = tf.strings.join([encoded, bytes(64)])
    is_wav = (tf.strings.substr(padded, 0, 4) == b"RIFF") & (total >= 12)
    with check_one(is_wav, place, "is no WAV file"):
        kind, channels, rate, bits, first, size = _fields(padded, total)
    keys = tf.constant([_key(*encoding) for encoding in ENCODINGS])
    known = keys == _key(kind, bits)
    with check_one(first > 0, place, "is a WAV file without a format or without samples"):
        first = tf.identity(first)
    with check_one(first + size <= total, place, "is a WAV file that is cut off"):
        first = tf.identity(first)
    message = "is a WAV file of format {} with {} bits and {} channels; PCM or floats are read"
    with check_one(tf.reduce_any(known) & (channels > 0), place, message, kind, bits, channels):
        first = tf.identity(first)
    rates = ", ".join(map(str, RATES))
    message = f"is a WAV file with {{}} samples a second; it may have one of {rates}"
    with check_one(tf.reduce_any(tf.equal(rate, RATES)), place, message, rate):
        first = tf.identity(first)
    frame = tf.maximum(channels * (bits // 8), 1)  # computed before the checks, too
    count = size // frame
    # More than this is refused before it is decoded and resampled.
    fits = tf.cast(count, tf.int64) * SAMPLE_RATE <= longest * tf.cast(rate, tf.int64)
    with check_one(fits, place, TOO_LONG.format(longest / SAMPLE_RATE), count, rate):
        first = tf.identity(first)
    data = tf.strings.substr(padded, first, count * frame)
    decode = [lambda f=f: f(data) for f in ENCODINGS.values()]
    samples = tf.switch_case(tf.argmax(known, output_type=tf.int32), decode)
    waveform = tf.reduce_mean(tf.reshape(samples, [-1, channels]), axis=1)
    return resample(waveform, rate)


def _key(kind, bits):
    return kind * 2**16 + bits


def _fields(padded, total):
    """Format, channels, rate, bits, where the samples begin and how many bytes they are: int32.

    All 0 where there is no format; the last two where there are no samples behind it.

    Args:
        padded: string, a WAV file and zeros.
        total: int32. Length of the file.
    """

    def unfinished(place, fields):
        return (place + 8 <= total) & (fields[4] == 0)

    def read(place, fields):
        name = tf.strings.substr(padded, place, 4)
        size = _number(padded, place + 4, 4)
        # What is written while it is recorded does not know its size, and says the largest.
        size = tf.where(size == MOST, total - place - 8, tf.minimum(size, total))

        def read_format():
            kind = _number(padded, place + 8, 2)
            # An extensible one has its format 24 bytes further on.
            kind = tf.where(kind == EXTENSIBLE, _number(padded, place + 32, 2), kind)
            channels, rate = _number(padded, place + 10, 2), _number(padded, place + 12, 4)
            return tf.stack([kind, channels, rate, _number(padded, place + 22, 2), 0, 0])

        is_format = (name == b"fmt ") & (size >= 16)
        fields = tf.cond(is_format, read_format, lambda: fields)
        is_data = (name == b"data") & (fields[2] > 0)
        fields = tf.where(is_data, tf.concat([fields[:4], [place + 8, size]], 0), fields)
        return place + 8 + size + size % 2, fields

    _, fields = tf.while_loop(unfinished, read, (12, tf.zeros([6], tf.int32)))
    return tf.unstack(fields)


def _number(padded, first, size):
    """The little-endian number of `size` bytes: int32, at most `MOST`."""
    raw = tf.io.decode_raw(tf.strings.substr(padded, first, size), tf.uint8, fixed_length=4)
    number = tf.reduce_sum(tf.cast(raw, tf.int64) * [1, 2**8, 2**16, 2**24])
    return tf.cast(tf.minimum(number, MOST), tf.int32)


def _raw(data, dtype):
    return tf.cast(tf.io.decode_raw(data, dtype), tf.float32)


def _raw_24_bits(data):
    parts = tf.cast(tf.reshape(tf.io.decode_raw(data, tf.uint8), [-1, 3]), tf.int32)
    number = parts[:, 0] + parts[:, 1] * 2**8 + parts[:, 2] * 2**16
    return tf.cast(tf.where(number >= 2**23, number - 2**24, number), tf.float32)
