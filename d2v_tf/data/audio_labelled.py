"""From labelled audio to batches for training and evaluating a classifier or a tagger."""

import dataclasses

import numpy as np
import tensorflow as tf

from d2v_tf.backbones.preprocessing import EPSILON
from d2v_tf.data import speech
from d2v_tf.data.audio_files import SAMPLE_RATE
from d2v_tf.data.labels import check_label, class_numbers, labels_of
from d2v_tf.data.mixing import WaveformMixer
from d2v_tf.data.no_autograph import no_autograph
from d2v_tf.data.reading import DataError, read_examples
from d2v_tf.data.seeds import stream_seed
from d2v_tf.data.speech_batches import planned_batches
from d2v_tf.data.speech_sources import SpeechFiles

# The stream of `stream_seed`, beside those of `speech`.
MIX = 3 << 40


def plan_training(
    source,
    *,
    batch_size,
    label=None,
    min_seconds=speech.SHORTEST,
    max_seconds=10.0,
    buckets=4,
    seed=0,
    shuffle=True,
):
    """Plans the batches of a source of files; for what `training_dataset` does and a summary.

    Args:
        batch_size: int. Utterances in a batch, over all shards.
        source, label, min_seconds, max_seconds, buckets, seed, shuffle: as for `training_dataset`.

    Returns:
        `BucketPlan`, of the utterances with a label.
    """
    return speech.plan_batches(
        only_labelled(source, label),
        batch_size=batch_size,
        min_seconds=min_seconds,
        max_seconds=max_seconds,
        buckets=buckets,
        seed=seed,
        shuffle=shuffle,
    )


@no_autograph
def training_dataset(
    source,
    *,
    class_names,
    batch_size,
    seed,
    start,
    bad_examples,
    label=None,
    min_seconds=speech.SHORTEST,
    max_seconds=10.0,
    buckets=4,
    mixup=0.0,
    mixup_probability=1.0,
    shuffle=True,
    num_shards=1,
    shard=0,
):
    """Batches for training a classifier or tagger, without end; a function of (seed, position).

    Utterances in files are batched by length, in a few lengths to which they are padded, always
    as many in a batch; records all have the longest one. One that is longer is cropped at a random
    place. Each is brought to zero mean and unit variance, and so is a mixture of two (where
    data2vec's released code divides by the deviation that two independent ones would have).

    Args:
        source: from `open_speech_source`, with labels. Files without one are left out; a record
            without one is a bad example.
        class_names: sequence of C str, from `labels.find_classes`.
        batch_size: int. Utterances in a batch, of this shard.
        seed: int.
        start: int. Position of the first utterance of all shards: a multiple of the batch.
        bad_examples: `BadExamples`.
        label: optional str. `"tags"`, or which of the source's labels. Defaults to the tags where
            there are some, else the first kind.
        min_seconds: float. Shorter files are left out.
        max_seconds: float. Longer ones are cropped to it.
        buckets: int or list of floats, as for `speech.plan_batches`.
        mixup, mixup_probability: floats, as for `WaveformMixer`; 0 = no mixing.
        shuffle: bool.
        num_shards, shard: ints. The shard's batches are every num_shards-th row of the whole ones.

    Returns:
        A dataset of (`{"waveform": [B, N] float32, "padding_mask": [B, N] bool}`, labels `[B, C]`
        float32): one-hot of classes, multi-hot of tags, soft where they are mixed.

    Raises:
        DataError: where the source has no labels, or classes of its own, too many files have no
            readable header, or most are too short.
    """
    whole_size = batch_size * num_shards
    if start % whole_size:
        raise DataError(
            f"data: training cannot begin at utterance {start:,}, which is no multiple of the "
            f"batch of {whole_size:,}. Go on with the batch that the run began with."
        )
    num_classes = len(class_names)
    mix = WaveformMixer(mixup, mixup_probability)
    if isinstance(source, SpeechFiles):
        source = only_labelled(source, label)
        encode = _encoder_of_files(source, class_names, label, bad_examples)
        speech.report_unusable(source, min_seconds, bad_examples)
        plan = plan_training(
            source,
            batch_size=whole_size,
            label=label,
            min_seconds=min_seconds,
            max_seconds=max_seconds,
            buckets=buckets,
            seed=seed,
            shuffle=shuffle,
        )
        lengths = [length for _, length in plan.shapes]
        batches = planned_batches(
            source,
            plan,
            start // whole_size,
            round(min_seconds * SAMPLE_RATE),
            bad_examples,
            num_shards,
            shard,
        )
    else:
        numbers = class_numbers(source, class_names, label, warn=bad_examples.warn)
        lengths = [round(max_seconds * SAMPLE_RATE)]
        batches = read_examples(
            source.records(start, seed, shuffle, num_shards, shard),
            source.load,
            _record_view(len(numbers), min_seconds, max_seconds, seed),
            bad_examples,
            batch_size,
            drop_remainder=True,
        ).map(lambda batch: {**batch, "index": batch["label"]})
        encode = _one_hot(numbers, num_classes)

    def finish(batch):
        waveforms, real = batch["waveform"], batch["length"]
        labels = encode(batch["index"])
        if mixup:
            batch_seed = stream_seed(seed, batch["position"][0], MIX)
            waveforms, real, labels = mix(waveforms, real, labels, batch_seed)
            waveforms = _normalize(waveforms, real)
        static = lengths[0] if len(lengths) == 1 else None
        waveforms = tf.ensure_shape(waveforms, [batch_size, static])
        return _inputs(waveforms, real), tf.ensure_shape(labels, [batch_size, num_classes])

    return batches.map(finish, num_parallel_calls=tf.data.AUTOTUNE).prefetch(1)


@no_autograph
def evaluation_dataset(
    source,
    *,
    class_names,
    batch_seconds,
    bad_examples,
    label=None,
    keep=None,
    max_seconds=20.0,
    buckets=4,
):
    """Each utterance once, whole, or the middle of it where it is longer than `max_seconds`.

    The shortest come first; a batch is padded to the length of its bucket.

    Args:
        source: from `open_speech_source`, with labels. Utterances without one are left out.
        class_names: sequence of C str, the model's; the source's classes are found by name.
        batch_seconds: float. Audio in a batch, padding counted. The last batch of each length may
            be smaller.
        bad_examples: `BadExamples`; utterances that cannot be read are left out.
        label: as for `training_dataset`.
        keep: optional bool array `[N]`, the utterances wanted.
        max_seconds, buckets: as for `speech.evaluation_dataset`.

    Returns:
        A dataset of (`{"waveform": [B, N], "padding_mask": [B, N]}`, labels `[B, C]` float32).

    Raises:
        DataError: where the source has no labels, or a class that the model lacks.
    """
    if not isinstance(source, SpeechFiles):
        numbers = class_numbers(source, class_names, label, warn=bad_examples.warn)
        size = max(1, round(batch_seconds / max_seconds))
        view = _record_view(len(numbers), speech.SHORTEST, max_seconds)
        batches = read_examples(source.once(keep), source.load, view, bad_examples, size)
        encode = _one_hot(numbers, len(class_names))
        return batches.map(
            lambda batch: (_inputs(batch["waveform"], batch["length"]), encode(batch["label"]))
        ).prefetch(1)
    source = source if keep is None else source.only(keep)
    source = only_labelled(source, label)
    encode = _encoder_of_files(source, class_names, label, bad_examples)
    # Examples' numbers as their labels: of tags there is no single one.
    numbered = dataclasses.replace(
        source,
        labels={"index": np.arange(source.num_examples)},
        class_names={"index": source.names},
    )
    batches = speech.evaluation_dataset(
        numbered,
        batch_seconds=batch_seconds,
        bad_examples=bad_examples,
        max_seconds=max_seconds,
        buckets=buckets,
    )
    return batches.map(lambda inputs, index: (inputs, encode(index)))


def only_labelled(source, label=None):
    """A source of files without those that have no label of this kind.

    A file without tags stays: it says that none applies.

    Raises:
        DataError: where no file has a label.
    """
    labels, _ = labels_of(source, label)
    if labels.ndim == 2 or (labels >= 0).all():
        return source
    if (labels < 0).all():
        raise DataError(f"data: none of the {len(labels)} files of {source.name} has a label.")
    return source.only(labels >= 0)


def _encoder_of_files(source, class_names, label, bad_examples):
    """A function of examples' numbers int64 `[B]` to labels float32 `[B, C]`."""
    labels, _ = labels_of(source, label)
    numbers = class_numbers(source, class_names, label, warn=bad_examples.warn)
    if labels.ndim == 1:
        return _one_hot(numbers[labels], len(class_names))
    tags = np.zeros((len(labels), len(class_names)), bool)
    tags[:, numbers] = labels
    tags = tf.constant(tags)
    return lambda index: tf.cast(tf.gather(tags, index), tf.float32)


def _one_hot(numbers, num_classes):
    numbers = tf.constant(numbers)
    return lambda index: tf.one_hot(tf.gather(numbers, index), num_classes)


def _record_view(num_classes, min_seconds, max_seconds, seed=None):
    def view(example, position):
        check_label(example["label"], num_classes)
        return speech.crop_record(
            example,
            position,
            min_length=round(min_seconds * SAMPLE_RATE),
            max_length=round(max_seconds * SAMPLE_RATE),
            seed=seed,
        )

    return view


def _inputs(waveforms, lengths):
    mask = tf.sequence_mask(lengths, tf.shape(waveforms)[1])
    return {"waveform": waveforms, "padding_mask": tf.ensure_shape(mask, waveforms.shape)}


def _normalize(waveforms, lengths):
    """To zero mean and unit variance of the real samples; float32 `[B, N]`."""
    real = tf.sequence_mask(lengths, tf.shape(waveforms)[1], tf.float32)
    count = tf.cast(lengths, tf.float32)[:, None]
    mean = tf.reduce_sum(waveforms * real, axis=1, keepdims=True) / count
    centered = (waveforms - mean) * real
    variance = tf.reduce_sum(centered**2, axis=1, keepdims=True) / count
    return centered / tf.sqrt(variance + EPSILON)
