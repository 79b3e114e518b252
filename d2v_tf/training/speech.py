"""The speech data of a run: batches for training, labelled sets for the probes."""

import functools

import numpy as np
import tensorflow as tf

from d2v_tf.backbones.preprocessing import Data2VecAudioConverter
from d2v_tf.backbones.speech import Data2VecSpeechBackbone
from d2v_tf.backbones.speech_frontend import feature_lengths
from d2v_tf.data.audio_files import SAMPLE_RATE, audio_reader
from d2v_tf.data.reading import DataError
from d2v_tf.data.speech import (
    evaluation_dataset,
    plan_batches,
    pretraining_dataset,
    records_in_batch,
)
from d2v_tf.data.speech_sources import SpeechFiles, open_speech_source
from d2v_tf.finetuning.audio_features import log_mel_statistics
from d2v_tf.masking import max_masked_frames, span_mask
from d2v_tf.training.evidence import ProbeTask
from d2v_tf.training.modalities import Modality
from d2v_tf.training.run_data import RunData, evenly, hold_out, match_classes, some_of

# Audio in a batch of the probes, in seconds.
PROBE_SECONDS = 160.0


def max_masked_spans(recipe):
    """The most masked frames of an example, as a function of its frames T."""
    mask = recipe.mask

    def limit(num_frames):
        if isinstance(num_frames, int):
            return max_masked_frames(num_frames, mask.start_ratio, mask.span_length, mask.min_spans)
        spans = tf.cast(mask.start_ratio * tf.cast(num_frames, tf.float32), tf.int32) + 1
        return tf.maximum(spans, mask.min_spans) * mask.span_length

    return limit


def size_multiple(group):
    """What a recipe's batch sizes are multiples of; for one replica where it is not resolved."""
    return 1 if group.size_multiple == "auto" else group.size_multiple


class SpeechData(RunData):
    """What a run reads.

    Args:
        recipe: a `SpeechRecipe`.
        warn: callable(str), for a file that is skipped.

    Raises:
        DataError: where the source cannot be opened or batched.
    """

    needs_python = "audio is decoded by Python"

    def __init__(self, recipe, warn):
        group = recipe.data
        super().__init__(recipe, warn, _open(group, group.source))
        self.reader = audio_reader()
        self.eval_source = group.eval_source
        if group.eval_source is None and group.source == "builtin":
            self.eval_source = "builtin:test"
        self._batching = {
            "batch_seconds": recipe.batch_size * group.max_seconds,
            "min_seconds": group.min_seconds,
            "max_seconds": group.max_seconds,
            "buckets": group.buckets,
            "seed": recipe.seed,
            "shuffle": group.shuffle,
            "multiple_of": recipe.accumulate * size_multiple(group),
        }

    @functools.cached_property
    def _plan(self):
        """The `BucketPlan` of a source of files; records have none."""
        if not isinstance(self.source, SpeechFiles):
            return None
        return plan_batches(self.source, **self._batching)

    @property
    def batches_per_epoch(self):
        """float. Updates that see every utterance once."""
        if self._plan is None:
            return self.num_examples / self.recipe.batch_size
        return self._plan.batches_per_epoch

    @property
    def batch_sizes(self):
        """list of int. Utterances in a batch of each length, over all workers."""
        if self._plan is None:
            options = self._batching
            seconds = options["batch_seconds"], options["max_seconds"]
            return [records_in_batch(*seconds, options["multiple_of"])]
        return [size for size, _ in self._plan.shapes]

    uneven_advice = (
        "start anew, in another --workdir, with --set data.size_multiple=N, a multiple of them"
    )

    def describe_batch(self):
        """str. What an update sees, for the summary."""
        seconds = self._batching["batch_seconds"]
        amount = f"{seconds / 60:,.1f} minutes" if seconds >= 60 else f"{seconds:g} s"
        if self._plan is None:
            return f"{amount} of audio an update"
        shapes = [(size, length / SAMPLE_RATE) for size, length in self._plan.shapes]
        parts = ", ".join(f"{size} x {length:.1f} s" for size, length in shapes)
        return f"{amount} of audio an update ({parts})"

    def batches(self, step, num_workers=1, worker=0):
        """The batches from update `step` on, without end; of several workers, this one's rows."""
        shards = {"num_shards": num_workers, "shard": worker}
        return self._batches(step, self._batching, self.bad_examples, **shards)

    def first_examples(self, count):
        """A batch of about `count` utterances, cropped and masked as an update sees them."""
        seconds = count * self._batching["max_seconds"]
        batching = {**self._batching, "batch_seconds": seconds, "multiple_of": 1}
        batch = next(iter(self._batches(0, batching, self.count_silently(self.source))))
        return {name: array[:count] for name, array in batch.items()}

    def _batches(self, start, batching, bad_examples, **shards):
        model, mask = self.recipe.model, self.recipe.mask

        def draw_mask(seeds, lengths, num_frames):
            return span_mask(
                num_frames,
                seeds,
                lengths,
                start_ratio=mask.start_ratio,
                span_length=mask.span_length,
                min_spans=mask.min_spans,
                equal_counts=mask.equal_counts,
            )

        return pretraining_dataset(
            self.source,
            **batching,
            start=start,
            span_mask=draw_mask,
            num_frames=functools.partial(
                feature_lengths,
                kernel_sizes=model.conv_kernel_sizes,
                strides=model.conv_strides,
            ),
            bad_examples=bad_examples,
            **shards,
        )

    def whole_examples(self, count, batch_size):
        """About `count` utterances as the probes see them, for pictures of what the backbone makes.

        Args:
            count: int.
            batch_size: int. Utterances of the longest length in a batch.

        Returns:
            (dataset of (inputs, labels int64 `[B]`, -1 = none), tuple of class names or `None`).
        """
        kinds = getattr(self.source, "labels", {})
        name = next(iter(kinds), None)
        dataset = self._labelled(
            self.source,
            name,
            some_of(self.source, count, kinds.get(name)),
            min(PROBE_SECONDS, batch_size * self.recipe.data.max_seconds),
            self.count_silently(self.source),
        )
        return dataset, _class_names(self.source, name)

    def probe_tasks(self):
        """What the backbone is probed on: each kind of label that the source has.

        Without `data.eval_source`, every fifth utterance is for testing.

        Returns:
            list of `ProbeTask`.

        Raises:
            DataError: where `data.eval_source` has no such labels, or classes of its own.
        """
        if not self.source.has_labels:
            return []
        other = _open(self.recipe.data, self.eval_source) if self.eval_source else None
        if other is not None and not other.has_labels:
            raise DataError(f"data.eval_source: {other.name} has no labels to probe with.")
        names = list(self.source.labels) if isinstance(self.source, SpeechFiles) else ["class"]
        return [self._probe_task(name, other) for name in names]

    def _probe_task(self, name, other):
        for_training = np.ones(self.num_examples, bool)
        if isinstance(self.source, SpeechFiles):
            for_training = self.source.labels[name] >= 0
        if other is None:
            held_out = ~hold_out(self.num_examples)
            test = self._labelled(self.source, name, for_training & held_out)
            for_training = for_training & ~held_out
        else:
            names = _class_names(self.source, name), _class_names(other, name)
            test = match_classes(self._labelled(other, name), *names, other.name)
        train = evenly(for_training, self.recipe.data.probe_examples)
        return ProbeTask(
            name,
            self._labelled(self.source, name, train),
            test,
            "log-mel statistics",
            log_mel_statistics,
        )

    def _labelled(self, source, name, keep=None, batch_seconds=PROBE_SECONDS, bad_examples=None):
        return evaluation_dataset(
            source,
            batch_seconds=batch_seconds,
            bad_examples=bad_examples or self.count_bad(source),
            label=name if isinstance(source, SpeechFiles) else None,
            keep=keep,
            max_seconds=self.recipe.data.max_seconds,
        )

    def save_preprocessing(self, folder):
        """Adds to a preset what turns a waveform into the backbone's input."""
        Data2VecAudioConverter().save_to_preset(folder)


def _open(group, spec):
    return open_speech_source(spec, tfds_dir=group.tfds_dir, cache_dir=group.cache_dir)


def _class_names(source, name):
    names = source.class_names
    return names.get(name) if isinstance(names, dict) else names


MODALITY = Modality(Data2VecSpeechBackbone, SpeechData, max_masked_spans)
