"""Reads batches of recordings: one call of Python a batch, whose files threads decode."""

import concurrent.futures
import os
import time

import numpy as np
import tensorflow as tf

from d2v_tf.backbones.preprocessing import normalize_waveform
from d2v_tf.data import reading
from d2v_tf.data.audio_files import AudioError
from d2v_tf.data.reading import ATTEMPTS

# Positions of a batch of files: its number times this, and its rows. No batch has more rows.
MAX_ROWS = 1 << 16
# Batches that are read at the same time: one is decoded while another is put together.
PARALLEL_BATCHES = 2
# The threads that decode, of all datasets: nothing tells when one of these is read no more.
_POOL = concurrent.futures.ThreadPoolExecutor(os.cpu_count(), "read_speech")


def planned_batches(
    source, plan, start, min_length, bad_examples, num_shards=1, shard=0, crop=True
):
    """The batches of a plan from `start` on, without end.

    One call of Python a batch, which decodes its files in threads: libsndfile and soxr release the
    interpreter's lock.

    Args:
        source: `SpeechFiles`.
        plan: `BucketPlan` of its lengths.
        start: int. Number of the first batch.
        min_length: int. The fewest samples of an utterance.
        bad_examples: `BadExamples`.
        num_shards, shard: ints. As `pretraining_dataset`.
        crop: bool. Whether an utterance that replaces another may be cropped to the batch's length;
            else a shorter one is taken.

    Returns:
        A dataset of `{"bucket": [], "waveform": [B, N], "length": [B], "position": [B], "index":
        [B]}`, the last the utterances that were read.
    """

    def read_batch(step):
        batch = plan.batch(int(step))
        rows = np.arange(shard, len(batch.indices), num_shards)
        waveforms = np.zeros([len(rows), plan.shapes[batch.bucket][1]], "float32")
        lengths = np.zeros([len(rows)], "int32")
        indices = np.zeros([len(rows)], "int64")  # of what was read, which may be a replacement

        def read_row(place):
            row = rows[place]
            replacements = plan.replacements(int(step), int(row))
            if not crop:
                replacements = [i for i in replacements if source.lengths[i] <= waveforms.shape[1]]
            for index in (batch.indices[row], *replacements):
                lengths[place] = read_into(
                    waveforms[place], source, index, min_length, batch.places[row], bad_examples
                )
                if lengths[place]:
                    indices[place] = index
                    return
            bad_examples.report_no_replacement(source.names[batch.indices[row]])

        _in_threads(read_row, len(rows))
        return batch.bucket, waveforms, lengths, step * MAX_ROWS + rows, indices

    def read(step):
        bucket, waveforms, lengths, positions, indices = tf.numpy_function(
            read_batch, [step], [tf.int64, tf.float32, tf.int32, tf.int64, tf.int64]
        )
        return {
            "bucket": tf.ensure_shape(bucket, []),
            "waveform": tf.ensure_shape(waveforms, [None, None]),
            "length": tf.ensure_shape(lengths, [None]),
            "position": tf.ensure_shape(positions, [None]),
            "index": tf.ensure_shape(indices, [None]),
        }

    steps = tf.data.Dataset.range(start, np.iinfo(np.int64).max)
    return steps.map(read, num_parallel_calls=PARALLEL_BATCHES, deterministic=True)


def batches_once(source, batches, labels, min_length, bad_examples):
    """Batches of a source of files, each once; without those files that cannot be read.

    Args:
        source: `SpeechFiles`.
        batches: list of (int, samples of a row; int array, the utterances).
        labels: int64 array, one an utterance of the source.
        min_length: int. The fewest samples of an utterance.
        bad_examples: `BadExamples`.

    Returns:
        A dataset of `{"waveform": [B, N], "length": [B], "label": [B]}`.
    """

    def read_batch(number):
        length, members = batches[number]
        waveforms = np.zeros([len(members), length], "float32")

        def read_row(place):
            return read_into(
                waveforms[place], source, members[place], min_length, 0.5, bad_examples
            )

        read = np.array(_in_threads(read_row, len(members)), "int32")
        good = read > 0
        return waveforms[good], read[good], labels[members[good]]

    def read(number):
        waveforms, read_lengths, read_labels = tf.numpy_function(
            read_batch, [number], [tf.float32, tf.int32, tf.int64]
        )
        return {
            "waveform": tf.ensure_shape(waveforms, [None, None]),
            "length": tf.ensure_shape(read_lengths, [None]),
            "label": tf.ensure_shape(read_labels, [None]),
        }

    numbers = tf.data.Dataset.range(len(batches))
    read_batches = numbers.map(read, num_parallel_calls=PARALLEL_BATCHES, deterministic=True)
    return read_batches.filter(lambda batch: tf.size(batch["label"]) > 0)


def _in_threads(function, count):
    """What a function of a number gives for 0, 1, ..., count - 1; raises what it raises."""
    try:
        return list(_POOL.map(function, range(count)))
    except RuntimeError as error:
        if "interpreter shutdown" not in str(error):
            raise
        return [0] * count  # the program ends while the next batch is read: nobody will see it


def read_into(row, source, index, min_length, place, bad_examples):
    """Reads an utterance into a row of zeros; returns its length, 0 if it cannot be read."""
    for attempt in range(ATTEMPTS):
        try:
            waveform = source.read(index, min_samples=min_length, max_samples=len(row), place=place)
            break
        except AudioError as error:
            if attempt == ATTEMPTS - 1:
                bad_examples.report(source.names[index], str(error))
                return 0
            if error.may_pass and not bad_examples.knows(source.names[index]):
                time.sleep(reading.PAUSES[attempt])
    row[: len(waveform)] = normalize_waveform(waveform)
    return len(waveform)
