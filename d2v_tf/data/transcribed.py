"""Speech with transcripts: batches to train recognition on, and to measure it on."""

import dataclasses

import numpy as np
import tensorflow as tf

from d2v_tf.data.audio_files import SAMPLE_RATE
from d2v_tf.data.no_autograph import no_autograph
from d2v_tf.data.reading import DataError
from d2v_tf.data.speech import (
    SHORTEST,
    evaluation_dataset,
    padding_mask_of,
    plan_batches,
)
from d2v_tf.data.speech_batches import planned_batches
from d2v_tf.data.speech_sources import SpeechFiles


def check_transcribed(source):
    """Refuses a source that recognition cannot be trained or measured on.

    Raises:
        DataError: where the source is not of files, or has no transcripts.
    """
    if not isinstance(source, SpeechFiles):
        raise DataError(
            f"data: {source.name} is read front to back, and recognition needs utterances in "
            "files, in any order. Give folder: or manifest:."
        )
    if source.transcripts is None:
        raise DataError(
            f"data: {source.name} has no transcripts. Put NAME.ltr, NAME.wrd or NAME.txt, one "
            "transcript a line, beside the manifest NAME.tsv; or LibriSpeech's *.trans.txt beside "
            "the files of a folder."
        )


def trainable_utterances(source, encode, num_frames, bad_examples, max_seconds=20.0):
    """The utterances that CTC can be trained on, and their labels; says what is left out, and why.

    Left out are utterances longer than `max_seconds`, which are not cropped because nobody knows
    where in the transcript; those too short for a frame; and those whose transcript needs more
    frames than there are (a label a frame, and a blank between equal ones). Files whose header
    cannot be read are bad examples.

    Args:
        source: `SpeechFiles` with transcripts.
        encode: function of a list of str to a list of int arrays, such as `encode_letters` with a
            vocabulary.
        num_frames: function from samples to the encoder's frames, for ints.
        bad_examples: `BadExamples`.
        max_seconds: float.

    Returns:
        (`SpeechFiles`, list of int32 arrays, one an utterance).

    Raises:
        DataError: where no utterance is left, or `encode` refuses a transcript.
    """
    check_transcribed(source)
    for index, reason in source.problems.items():
        bad_examples.report(source.names[index], reason)
    labels = encode(source.transcripts)
    frames = np.array([num_frames(int(n)) for n in source.lengths], "int64")
    needed = np.array([len(row) + int((row[1:] == row[:-1]).sum()) for row in labels], "int64")
    readable = np.array([i not in source.problems for i in range(source.num_examples)])
    long = source.lengths > round(max_seconds * SAMPLE_RATE)
    short = frames < 1
    crowded = ~long & ~short & (needed > frames)
    seconds = source.lengths / SAMPLE_RATE

    def warn(left_out, what, detail):
        places = np.flatnonzero(left_out & readable)
        if len(places):
            first = places[0]
            bad_examples.warn(
                f"{len(places):,} of {source.num_examples:,} utterances of {source.name} {what} "
                f"and are left out (first: {source.names[first]}, {detail(first)})"
            )

    warn(long, f"are longer than {max_seconds:g} s", lambda i: f"{seconds[i]:.1f} s")
    warn(short, f"are shorter than {SHORTEST:g} s, a frame,", lambda i: f"{seconds[i]:.3f} s")
    warn(
        crowded,
        "have more letters than frames",
        lambda i: f"{needed[i]} frames needed for {len(labels[i])} letters, {frames[i]} there",
    )
    keep = readable & ~long & ~short & ~crowded
    if not keep.any():
        raise DataError(
            f"data: none of the {source.num_examples:,} utterances of {source.name} can be trained "
            f"on: {int(long.sum()):,} are longer than {max_seconds:g} s (data.max_seconds), "
            f"{int((short & readable).sum()):,} too short for a frame, {int(crowded.sum()):,} have "
            f"more letters than frames, {len(source.problems):,} cannot be read."
        )
    return source.only(keep), [labels[i] for i in np.flatnonzero(keep)]


def plan_transcribed(source, *, batch_seconds, buckets=4, seed=0, shuffle=True, multiple_of=1):
    """Plans the batches of utterances of which none is cropped; arguments as `plan_batches`.

    Args:
        source: `SpeechFiles`, as `trainable_utterances` gives it.

    Returns:
        `BucketPlan`. Its longest bucket is as long as the longest utterance.
    """
    return plan_batches(
        source,
        batch_seconds=batch_seconds,
        min_seconds=SHORTEST,
        max_seconds=int(source.lengths.max()) / SAMPLE_RATE,
        buckets=buckets,
        seed=seed,
        shuffle=shuffle,
        multiple_of=multiple_of,
    )


@no_autograph
def transcribed_dataset(
    source,
    labels,
    *,
    batch_seconds,
    seed,
    start,
    bad_examples,
    buckets=4,
    shuffle=True,
    multiple_of=1,
):
    """Batches to train recognition on, without end; a function of (seed, number of the batch).

    Utterances are batched by length in a few shapes (`BucketPlan`), whole, brought to zero mean and
    unit variance, and padded by zeros. All batches of a bucket have the same shapes: B and N, and L
    of the longest transcript that can come into it.

    Args:
        source: `SpeechFiles`, as `trainable_utterances` gives it.
        labels: list of int arrays, one an utterance; the same function's.
        batch_seconds: float. Audio in a batch, padding counted.
        seed: int.
        start: int. Number of the first batch.
        bad_examples: `BadExamples`. What cannot be read is replaced by another utterance.
        buckets, shuffle, multiple_of: as `plan_batches`.

    Returns:
        A dataset of (`{"waveform": [B, N] float32, "padding_mask": [B, N] bool}`, labels int32
        `[B, L]` padded with -1).
    """
    plan = plan_transcribed(
        source,
        batch_seconds=batch_seconds,
        buckets=buckets,
        seed=seed,
        shuffle=shuffle,
        multiple_of=multiple_of,
    )
    sizes = np.array([len(row) for row in labels])
    # Any utterance that fits into a bucket may come into it: to fill a batch up, or as another's
    # replacement.
    longest = [
        max(1, int(sizes[source.lengths <= length].max(initial=0))) for _, length in plan.shapes
    ]

    def labels_of(bucket, indices):
        return pad_labels([labels[i] for i in indices], longest[bucket])

    def finish(batch):
        padded = tf.numpy_function(
            labels_of, [batch["bucket"], batch["index"]], tf.int32, stateful=False
        )
        waveform, padded = batch["waveform"], tf.ensure_shape(padded, [None, None])
        if len(plan.shapes) == 1:
            size, length = plan.shapes[0]
            waveform = tf.ensure_shape(waveform, [size, length])
            padded = tf.ensure_shape(padded, [size, longest[0]])
        inputs = {
            "waveform": waveform,
            "padding_mask": padding_mask_of(waveform, batch["length"]),
        }
        return inputs, padded

    batches = planned_batches(
        source,
        plan,
        start,
        round(SHORTEST * SAMPLE_RATE),
        bad_examples,
        crop=False,
    )
    return batches.map(finish, num_parallel_calls=tf.data.AUTOTUNE).prefetch(1)


@no_autograph
def recognition_dataset(source, *, batch_seconds, bad_examples, buckets=4):
    """Each utterance once, whole however long it is, to measure recognition on.

    Args:
        source: `SpeechFiles` with transcripts.
        batch_seconds: float. Audio in a batch, padding counted; at least one utterance is in each.
        bad_examples: `BadExamples`; utterances that cannot be read, or are too short for a frame,
            are left out.
        buckets: as `plan_batches`.

    Returns:
        A dataset of (`{"waveform": [B, N], "padding_mask": [B, N]}`, int64 `[B]`, the utterances'
        places in the source, whose transcripts are the references).

    Raises:
        DataError: as `check_transcribed`.
    """
    check_transcribed(source)
    places = np.arange(source.num_examples)
    numbered = dataclasses.replace(source, labels={"place": places}, class_names={})
    return evaluation_dataset(
        numbered,
        batch_seconds=batch_seconds,
        bad_examples=bad_examples,
        max_seconds=max(int(source.lengths.max()), 1) / SAMPLE_RATE,
        buckets=buckets,
    )


def pad_labels(encoded, length=None):
    """Arrays of different lengths as one: int32 `[B, L]`, -1 behind each; L is at least 1.

    Args:
        encoded: list of int arrays.
        length: optional int. L; the longest array's length by default.
    """
    if length is None:
        length = max([1, *map(len, encoded)])
    labels = np.full((len(encoded), length), -1, "int32")
    for row, numbers in zip(labels, encoded, strict=True):
        row[: len(numbers)] = numbers
    return labels
