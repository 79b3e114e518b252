"""From a source of speech to batches: crops, padding, normalisation, span masks."""

import functools

import numpy as np
import tensorflow as tf

from d2v_tf.backbones.preprocessing import EPSILON
from d2v_tf.data.audio_files import SAMPLE_RATE
from d2v_tf.data.length_buckets import BucketPlan, choose_bucket_lengths
from d2v_tf.data.no_autograph import no_autograph
from d2v_tf.data.reading import DataError, read_examples
from d2v_tf.data.seeds import stream_seed
from d2v_tf.data.speech_batches import batches_once, planned_batches
from d2v_tf.data.speech_sources import SpeechFiles

# The streams of `stream_seed`, one for each kind of draw.
CROP, MASK = (stream << 40 for stream in range(1, 3))
# More short utterances than this part are a wrong setting rather than a few short files.
MAX_SHORT = 0.5
# Shortest waveform that the encoder makes a frame of, in seconds.
SHORTEST = 400 / SAMPLE_RATE


def plan_batches(
    source,
    *,
    batch_seconds=None,
    min_seconds=2.0,
    max_seconds=20.0,
    buckets=4,
    seed=0,
    shuffle=True,
    multiple_of=1,
    batch_size=None,
):
    """Plans the batches of a source of files; for what `pretraining_dataset` does and a summary.

    Args:
        source: `SpeechFiles`.
        batch_seconds: float. Audio in a batch, padding counted.
        min_seconds: float. Shorter utterances are left out.
        max_seconds: float. Longer ones are cropped to it.
        buckets: int, how many lengths are used at most, chosen so that little is padded; or these
            lengths, a list of floats in seconds. `max_seconds` is the last of them.
        seed: int.
        shuffle: bool.
        multiple_of: int. Batch sizes are multiples of it.
        batch_size: optional int. Utterances in a batch, instead of `batch_seconds`.

    Returns:
        `BucketPlan`.
    """
    min_length, max_length = _samples(min_seconds), _samples(max_seconds)
    usable = source.lengths[source.lengths >= max(min_length, 1)]
    return BucketPlan(
        source.lengths,
        _bucket_lengths(usable, buckets, max_length),
        None if batch_size else _samples(batch_seconds),
        min_length,
        seed,
        shuffle,
        multiple_of,
        batch_size,
    )


@no_autograph
def pretraining_dataset(
    source,
    *,
    batch_seconds,
    seed,
    start,
    span_mask,
    num_frames,
    bad_examples,
    min_seconds=2.0,
    max_seconds=20.0,
    buckets=4,
    shuffle=True,
    multiple_of=None,
    num_shards=1,
    shard=0,
):
    """Batches for pre-training, without end; a function of (seed, number of the batch) alone.

    Utterances in files are batched by length (`BucketPlan`), in a few shapes; records are read
    front to back and all have one shape, that of the longest crop. An utterance is cropped at
    random to the longest length, then brought to zero mean and unit variance, then padded by zeros.
    (fairseq takes mean and variance before it crops: different for long recordings, of which only
    the crop is read here. And it crops a whole batch to its shortest, where this pads.)

    Args:
        source: from `open_speech_source`.
        batch_seconds: float. Audio in a batch over all shards, padding counted: the paper has 3,780
            s.
        seed: int.
        start: int. Number of the first batch.
        span_mask: function of (seeds int64 `[B, 2]`, lengths int32 `[B]` in frames, T) to a mask
            bool `[B, T]`.
        num_frames: function from samples to the encoder's frames, for ints and tensors.
        bad_examples: `BadExamples`.
        min_seconds, max_seconds, buckets, shuffle, multiple_of: as `plan_batches`. Records have
            no buckets, and short ones are not left out but padded. `multiple_of` is num_shards
            unless given.
        num_shards, shard: ints. The shard's batches are every num_shards-th row of the whole ones.

    Returns:
        A dataset of `{"waveform": [B, N] float32, "padding_mask": [B, N] bool, "mask": [B, T]
        bool}`, True = real in the second, hidden from the student in the third. Its static shape
        has B and N where all batches have the same.

    Raises:
        DataError: where too many files have no readable header, most are too short, or a batch does
            not divide by num_shards.
    """
    multiple_of = multiple_of or num_shards
    if isinstance(source, SpeechFiles):
        report_unusable(source, min_seconds, bad_examples)
        plan = plan_batches(
            source,
            batch_seconds=batch_seconds,
            min_seconds=min_seconds,
            max_seconds=max_seconds,
            buckets=buckets,
            seed=seed,
            shuffle=shuffle,
            multiple_of=multiple_of,
        )
        _check_shards([size for size, _ in plan.shapes], num_shards)
        shapes = [(size // num_shards, length) for size, length in plan.shapes]
        batches = planned_batches(
            source, plan, start, _samples(min_seconds), bad_examples, num_shards, shard
        )
    else:
        length = _samples(max_seconds)
        size = records_in_batch(batch_seconds, max_seconds, multiple_of)
        _check_shards([size], num_shards)
        shapes = [(size // num_shards, length)]
        records = source.records(start * size, seed, shuffle, num_shards, shard)
        batches = read_examples(
            records,
            source.load,
            functools.partial(
                crop_record, seed=seed, min_length=_samples(SHORTEST), max_length=length
            ),
            bad_examples,
            size // num_shards,
            drop_remainder=True,
        ).map(lambda batch: {**batch, "bucket": tf.constant(0, tf.int64)})

    def draw_mask(bucket, positions, lengths):
        size, length = shapes[bucket]
        seeds = stream_seed(seed, positions, MASK)
        frames = tf.cast(num_frames(tf.ensure_shape(lengths, [size])), tf.int32)
        total = num_frames(length)
        mask = span_mask(tf.ensure_shape(seeds, [size, 2]), frames, total)
        return tf.ensure_shape(mask, [size, total])

    def finish(batch):
        masks = [
            functools.partial(draw_mask, k, batch["position"], batch["length"])
            for k in range(len(shapes))
        ]
        mask = tf.switch_case(tf.cast(batch["bucket"], tf.int32), masks)
        waveform = batch["waveform"]
        if len(shapes) == 1:
            waveform = tf.ensure_shape(waveform, shapes[0])
        return {
            "waveform": waveform,
            "padding_mask": padding_mask_of(waveform, batch["length"]),
            "mask": mask,
        }

    return batches.map(finish, num_parallel_calls=tf.data.AUTOTUNE).prefetch(1)


def records_in_batch(batch_seconds, max_seconds, multiple_of):
    """Examples in a batch of records, all padded to `max_seconds`.

    Raises:
        DataError: where there is none.
    """
    size = _samples(batch_seconds) // _samples(max_seconds) // multiple_of * multiple_of
    if not size:
        raise DataError(
            f"data: a batch of {batch_seconds:g} s is too small for {multiple_of} examples of "
            f"{max_seconds:g} s. Raise the batch or lower the longest crop."
        )
    return size


def _check_shards(sizes, num_shards):
    uneven = [size for size in sizes if size % num_shards]
    if uneven:
        raise DataError(f"data: a batch of {uneven[0]} examples has no {num_shards} equal parts.")


@no_autograph
def evaluation_dataset(
    source,
    *,
    batch_seconds,
    bad_examples,
    label=None,
    keep=None,
    min_seconds=SHORTEST,
    max_seconds=20.0,
    buckets=4,
):
    """Each utterance once, whole, or the middle of it where it is longer than `max_seconds`.

    Args:
        source: from `open_speech_source`.
        batch_seconds: float. Audio in a batch, padding counted. The last batch of each length may
            be smaller.
        bad_examples: `BadExamples`; utterances that cannot be read are left out.
        label: optional str. Which of the source's labels is given, and utterances without it are
            left out. Defaults to the first one. Records have a single one.
        keep: optional bool array `[N]`, the utterances wanted.
        min_seconds: float. Shorter utterances are left out, as bad ones.
        max_seconds, buckets: as `plan_batches`.

    Returns:
        A dataset of (`{"waveform": [B, N], "padding_mask": [B, N]}`, labels int64 `[B]`); without
        labels the source's are -1.
    """
    min_length, max_length = _samples(min_seconds), _samples(max_seconds)
    if isinstance(source, SpeechFiles):
        batches = _each_once(
            source, label, keep, batch_seconds, min_length, max_length, buckets, bad_examples
        )
    else:
        view = functools.partial(crop_record, min_length=min_length, max_length=max_length)
        size = max(1, _samples(batch_seconds) // max_length)
        batches = read_examples(source.once(keep), source.load, view, bad_examples, size)

    def finish(batch):
        inputs = {
            "waveform": batch["waveform"],
            "padding_mask": padding_mask_of(batch["waveform"], batch["length"]),
        }
        return inputs, batch["label"]

    return batches.map(finish).prefetch(1)


def report_unusable(source, min_seconds, bad_examples):
    """Names the files that a run leaves out before it reads them.

    A file whose header cannot be read is a bad example. One that is too short is not: nothing is
    wrong with it. (1.0% of LibriSpeech's utterances are below the paper's 2 seconds.)

    Raises:
        DataError: where too many files are bad, or more than half are too short.
    """
    for index, reason in source.problems.items():
        bad_examples.report(source.names[index], reason)
    readable = np.array([i not in source.problems for i in range(source.num_examples)])
    short = np.flatnonzero(readable & (source.lengths < _samples(min_seconds)))
    if not len(short):
        return
    line = (
        f"{len(short):,} of {source.num_examples:,} utterances of {source.name} are shorter than "
        f"{min_seconds:g} s (first: {source.names[short[0]]}, "
        f"{source.lengths[short[0]] / SAMPLE_RATE:.3g} s)"
    )
    if len(short) > MAX_SHORT * source.num_examples:
        median = np.median(source.lengths[readable]) / SAMPLE_RATE
        raise DataError(
            f"data: {line}, and half of all are shorter than {median:.3g} s. Lower the limit, "
            f"data.min_seconds: a frame takes {SHORTEST:g} s."
        )
    bad_examples.warn(f"{line} and are left out")


def _samples(seconds):
    return round(seconds * SAMPLE_RATE)


def _bucket_lengths(lengths, buckets, max_length):
    """The lengths of buckets in samples, ascending: chosen for these utterances, or as given."""
    if not isinstance(buckets, int):
        given = {_samples(seconds) for seconds in buckets}
        return sorted({n for n in given if n < max_length} | {max_length})
    if not lengths.any():
        return [max_length]
    return choose_bucket_lengths(lengths, buckets, max_length)


def padding_mask_of(waveform, lengths):
    mask = tf.sequence_mask(lengths, tf.shape(waveform)[1])
    return tf.ensure_shape(mask, waveform.shape)


def _each_once(source, label, keep, batch_seconds, min_length, max_length, buckets, bad_examples):
    """The utterances of a source of files, shortest bucket first."""
    labels = _labels_of(source, label)
    wanted = np.ones(source.num_examples, bool) if keep is None else np.asarray(keep)
    if source.has_labels:
        wanted = wanted & (labels >= 0)
    indices = np.flatnonzero(wanted)
    cut = np.minimum(source.lengths[indices], max_length)
    lengths = _bucket_lengths(cut, buckets, max_length)
    batches = []
    for k, members in enumerate(np.searchsorted(lengths, cut) == np.arange(len(lengths))[:, None]):
        members, size = indices[members], max(1, _samples(batch_seconds) // lengths[k])
        batches += [(lengths[k], members[i : i + size]) for i in range(0, len(members), size)]
    return batches_once(source, batches, labels, min_length, bad_examples)


def _labels_of(source, label):
    if not source.has_labels:
        return np.full(source.num_examples, -1, "int64")
    label = label or next(iter(source.labels))
    if label not in source.labels:
        raise DataError(
            f"data: {source.name} has no label {label!r}; it has {', '.join(source.labels)}."
        )
    return source.labels[label]


def crop_record(example, position, min_length, max_length, seed=None):
    """A record's utterance at a fixed length; a random crop where there is a seed, else the middle.

    Returns:
        dict of `waveform` float32 `[max_length]`, `length` and `label`.
    """
    waveform = example["waveform"]
    total = tf.shape(waveform)[0]
    tf.debugging.assert_greater_equal(
        total, max(min_length, 1), f"it is shorter than the {min_length / SAMPLE_RATE:.3g} s needed"
    )
    waveform = tf.debugging.check_numerics(waveform, "it has samples that are no finite numbers")
    place = 0.5
    if seed is not None:
        place = tf.random.stateless_uniform([], stream_seed(seed, position, CROP), dtype=tf.float64)
    room = tf.maximum(total - max_length, 0)
    first = tf.cast(place * tf.cast(room + 1, tf.float64), tf.int32)
    crop = waveform[first : first + max_length]
    mean, variance = tf.nn.moments(crop, axes=[0])
    crop = (crop - mean) / tf.sqrt(variance + EPSILON)
    length = tf.shape(crop)[0]
    return {
        "waveform": tf.ensure_shape(tf.pad(crop, [[0, max_length - length]]), [max_length]),
        "length": length,
        "label": example["label"],
    }
