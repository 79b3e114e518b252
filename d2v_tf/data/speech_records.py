"""Speech that is read front to back: TFRecord files of ours, or TFDS's."""

import dataclasses
import io

import numpy as np
import tensorflow as tf

from d2v_tf.data.audio_files import SAMPLE_RATE, read_audio, resample
from d2v_tf.data.reading import DataError
from d2v_tf.data.records import RecordSource, tfrecord_parts
from d2v_tf.data.tfds import open_builder

# TFDS's datasets of speech name their features differently.
AUDIO_FEATURES = ("speech", "audio")
TEXT_FEATURES = ("text", "transcription", "sentence")
LABEL_FEATURES = ("label", "speaker_id", "speaker")
NAME_FEATURES = ("id", "audio/filename")


def serialize_utterance(waveform, name, text="", speaker="", label=-1):
    """An utterance as a record of our own: what `tfrecord:` reads.

    Args:
        waveform: float32 `[N]` in [-1, 1], 16 kHz; kept as 16-bit PCM.
        name: str.
        text: str. The transcript.
        speaker: str. The speaker's name, or another class.
        label: int. The speaker's number, -1 if there is none.

    Returns:
        bytes, a `tf.train.Example`.
    """
    pcm = np.clip(np.round(waveform * 32768), -32768, 32767).astype("<i2").tobytes()

    def strings(value):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    def integers(value):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    feature = {
        "audio/pcm": strings(pcm),
        "audio/rate": integers(SAMPLE_RATE),
        "id": strings(name.encode()),
        "text": strings(text.encode()),
        "speaker": strings(speaker.encode()),
        "label": integers(label),
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def open_tfrecord(pattern, **_):
    """TFRecord files as `tools/prepare.py --tfrecord` writes them, which a glob names.

    An example holds 16-bit PCM under `audio/pcm`, and may hold its rate under `audio/rate` (16,000
    otherwise), and `id`, `text`, `speaker` and `label`.
    """
    source = RecordSource(f"tfrecord:{pattern}", tfrecord_parts(pattern), _parse_utterance)
    record = next(iter(source.once()))["candidates"][0]
    first = _utterance_features(record)
    if not first["audio/pcm"].numpy():
        raise DataError(
            f"data: tfrecord:{pattern} has no 'audio/pcm' in its first record. Write the files by "
            "tools/prepare.py --modality=speech --tfrecord."
        )
    return dataclasses.replace(source, has_labels=int(first["label"]) >= 0)


def open_tfds(spec, tfds_dir=None, **_):
    """A speech dataset of tensorflow-datasets, `NAME[/CONFIG][:SPLIT]`; prepares it if need be.

    Its audio is the feature `speech` or `audio`; LibriSpeech's layout is known.
    """
    builder, parts = open_builder(spec, tfds_dir)
    features = builder.info.features
    audio = next((name for name in AUDIO_FEATURES if name in features), None)
    if audio is None:
        raise DataError(
            f"data: tfds:{spec} has no feature 'speech' or 'audio'; it has {', '.join(features)}."
        )
    rate = getattr(features[audio], "sample_rate", None)
    if not rate:
        raise DataError(f"data: tfds:{spec} does not say the sample rate of its {audio!r}.")
    text = next((name for name in TEXT_FEATURES if name in features), None)
    # Numbers of speakers need not be 0, 1, ...: a class is whatever has the same number.
    label = next((n for n in LABEL_FEATURES if n in features and _is_integer(features[n])), None)
    name = next((n for n in NAME_FEATURES if n in features), None)
    parse = _tfds_parser(features, audio, rate, name, text, label, f"a record of tfds:{spec}")
    return RecordSource(
        f"tfds:{spec}",
        parts,
        parse,
        has_labels=label is not None,
        class_names=tuple(getattr(features[label], "names", None) or ()) or None if label else None,
    )


def _is_integer(feature):
    return feature.shape == () and np.issubdtype(feature.np_dtype, np.integer)


def _tfds_parser(features, audio, rate, name, text, label, nameless):
    """A function of a serialized record to `name`, `label`, `text` and `waveform`."""
    import tensorflow_datasets as tfds

    wanted = {n: True for n in (audio, name, text, label) if n is not None}
    # Files that TFDS kept as they were: libsndfile decodes them, TFDS would need ffmpeg.
    is_encoded = features[audio].get_serialized_info().dtype == np.object_
    decoders = tfds.decode.PartialDecoding(
        wanted, decoders={audio: tfds.decode.SkipDecoding()} if is_encoded else None
    )
    decoders_of_features = decoders.extract_features(features)

    def parse(record):
        example = decoders_of_features.deserialize_example(record, decoders=decoders.decoders)
        samples = example[audio]
        if is_encoded:
            waveform = tf.numpy_function(
                lambda data: read_audio(io.BytesIO(data)), [samples], tf.float32, stateful=False
            )
        else:
            if samples.dtype.is_integer:
                # Whatever the type that TFDS keeps them in, samples are of 16 bits.
                samples = tf.cast(samples, tf.float32) / 32768
            samples = tf.cast(samples, tf.float32)
            if samples.shape.rank == 2:
                samples = tf.reduce_mean(samples, axis=1)
            waveform = _resampled(samples, tf.constant(rate, tf.int64))
        return {
            "name": tf.strings.as_string(example[name]) if name else tf.constant(nameless),
            "label": tf.cast(example[label], tf.int64) if label else tf.constant(-1, tf.int64),
            "text": example[text] if text else tf.constant(""),
            "waveform": tf.ensure_shape(waveform, [None]),
        }

    return parse


def _utterance_features(record):
    return tf.io.parse_single_example(
        record,
        {
            "audio/pcm": tf.io.FixedLenFeature([], tf.string, ""),
            "audio/rate": tf.io.FixedLenFeature([], tf.int64, SAMPLE_RATE),
            "id": tf.io.FixedLenFeature([], tf.string, "a record without a name"),
            "text": tf.io.FixedLenFeature([], tf.string, ""),
            "speaker": tf.io.FixedLenFeature([], tf.string, ""),
            "label": tf.io.FixedLenFeature([], tf.int64, -1),
        },
    )


def _parse_utterance(record):
    features = _utterance_features(record)
    pcm = tf.io.decode_raw(features["audio/pcm"], tf.int16)
    waveform = _resampled(tf.cast(pcm, tf.float32) / 32768, features["audio/rate"])
    return {
        "name": features["id"],
        "label": features["label"],
        "text": features["text"],
        "waveform": waveform,
    }


def _resampled(waveform, rate):
    """Resamples float32 `[N]` to 16 kHz; runs in a graph, and leaves it only if it has to."""
    resampled = tf.cond(
        rate == SAMPLE_RATE,
        lambda: waveform,
        lambda: tf.numpy_function(
            lambda x, r: resample(x, int(r)), [waveform, rate], tf.float32, stateful=False
        ),
    )
    return tf.ensure_shape(resampled, [None])
