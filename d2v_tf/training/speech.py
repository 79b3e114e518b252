"""The speech data of a run: batches for training, labelled sets for the probes."""

import functools

import keras
import numpy as np
import tensorflow as tf
from keras_hub.layers import AudioConverter

from d2v_tf.backbones.speech import Data2VecSpeechBackbone
from d2v_tf.backbones.speech_frontend import feature_lengths
from d2v_tf.data.audio_files import SAMPLE_RATE, normalize_waveform
from d2v_tf.data.reading import BadExamples, DataError, first_line
from d2v_tf.data.speech import evaluation_dataset, plan_batches, pretraining_dataset
from d2v_tf.data.speech_sources import SpeechFiles, open_speech_source
from d2v_tf.finetuning.audio_features import log_mel_statistics
from d2v_tf.masking import max_masked_frames, span_mask
from d2v_tf.training.evidence import ProbeTask
from d2v_tf.training.modalities import Modality

# Audio in a batch of the probes, in seconds.
PROBE_SECONDS = 160.0


@keras.saving.register_keras_serializable(package="d2v_tf")
class Data2VecAudioConverter(AudioConverter):
    """Normalizes waveforms as they were in pre-training; part of a preset.

    Input: a waveform at 16 kHz, float `[N]`, or a list of them. Output: what the backbone is called
    with: `"waveform"` float32 `[B, N]`, zero mean and unit variance each, and `"padding_mask"`.
    """

    backbone_cls = Data2VecSpeechBackbone

    def call(self, inputs):
        if not isinstance(inputs, (list, tuple)):
            inputs = [inputs] if np.ndim(inputs) == 1 else list(inputs)
        waveforms = [normalize_waveform(np.asarray(w, "float32")) for w in inputs]
        longest = max(len(w) for w in waveforms)
        padded = np.stack([np.pad(w, (0, longest - len(w))) for w in waveforms])
        lengths = np.array([len(w) for w in waveforms])
        return {
            "waveform": padded,
            "padding_mask": (np.arange(longest) < lengths[:, None]).astype("int32"),
        }


def max_masked_spans(recipe):
    """The most masked frames of an example, as a function of its frames T."""
    mask = recipe.mask

    def limit(num_frames):
        if isinstance(num_frames, int):
            return max_masked_frames(num_frames, mask.start_ratio, mask.span_length, mask.min_spans)
        spans = tf.cast(mask.start_ratio * tf.cast(num_frames, tf.float32), tf.int32) + 1
        return tf.maximum(spans, mask.min_spans) * mask.span_length

    return limit


class SpeechData:
    """What a run reads.

    Args:
        recipe: a `SpeechRecipe`.
        warn: callable(str), for a file that is skipped.

    Raises:
        DataError: where the source cannot be opened or batched.
    """

    def __init__(self, recipe, warn):
        self.recipe = recipe
        self.warn = warn
        group = recipe.data
        self.source = self._open(group.source)
        self.bad_examples = BadExamples(
            self.source.name, self.source.num_examples, max_bad=group.max_bad, warn=warn
        )
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
            "multiple_of": recipe.accumulate,
        }

    @property
    def name(self):
        """str. What is read, for the summary."""
        return self.source.name

    @property
    def num_examples(self):
        """int. Utterances in the source."""
        return self.source.num_examples

    @property
    def batches_per_epoch(self):
        """float. Updates that see every utterance once."""
        if isinstance(self.source, SpeechFiles):
            return plan_batches(self.source, **self._batching).batches_per_epoch
        return self.num_examples / self.recipe.batch_size

    def describe_batch(self):
        """str. What an update sees, for the summary."""
        seconds = self._batching["batch_seconds"]
        amount = f"{seconds / 60:,.1f} minutes" if seconds >= 60 else f"{seconds:g} s"
        if not isinstance(self.source, SpeechFiles):
            return f"{amount} of audio an update"
        shapes = plan_batches(self.source, **self._batching).shapes
        parts = ", ".join(f"{size} x {length / SAMPLE_RATE:.1f} s" for size, length in shapes)
        return f"{amount} of audio an update ({parts})"

    def explain(self, error):
        """The `DataError` behind a TensorFlow error from the input pipeline, or that error."""
        if self.bad_examples.error is not None:
            return self.bad_examples.error
        if isinstance(error, tf.errors.DataLossError):
            return DataError(f"data: {self.name} is corrupt: {first_line(error)}.")
        return error

    def batches(self, step):
        """The batches from update `step` on, without end."""
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
            **self._batching,
            start=step,
            span_mask=draw_mask,
            num_frames=functools.partial(
                feature_lengths,
                kernel_sizes=model.conv_kernel_sizes,
                strides=model.conv_strides,
            ),
            bad_examples=self.bad_examples,
        )

    def probe_tasks(self):
        """What the backbone is probed on: each kind of label that the source has.

        Without `data.eval_source`, every fifth utterance is for testing.

        Returns:
            list of `ProbeTask`.
        """
        if not self.source.has_labels:
            return []
        names = list(self.source.labels) if isinstance(self.source, SpeechFiles) else ["class"]
        test_source = self._open(self.eval_source) if self.eval_source else None
        tasks = []
        for name in names:
            for_training = np.ones(self.num_examples, bool)
            if test_source is None:
                for_training[4::5] = False
                test = self._labelled(self.source, name, ~for_training)
            else:
                test = self._labelled(test_source, name)
            train = self._labelled(self.source, name, self._limit(name, for_training))
            tasks.append(ProbeTask(name, train, test, "log-mel statistics", log_mel_statistics))
        return tasks

    def counts(self):
        """Numbers to log with every logged update."""
        return {"bad_examples": self.bad_examples.count}

    def save_preprocessing(self, folder):
        """Adds to a preset what turns a waveform into the backbone's input."""
        Data2VecAudioConverter().save_to_preset(folder)

    def _open(self, spec):
        group = self.recipe.data
        return open_speech_source(spec, tfds_dir=group.tfds_dir, cache_dir=group.cache_dir)

    def _limit(self, name, keep):
        """At most `data.probe_examples` of the labelled examples, evenly spread."""
        if isinstance(self.source, SpeechFiles):
            keep = keep & (self.source.labels[name] >= 0)
        limit = self.recipe.data.probe_examples
        if keep.sum() > limit:
            chosen = np.flatnonzero(keep)[np.linspace(0, keep.sum() - 1, limit).astype(int)]
            keep = np.isin(np.arange(len(keep)), chosen)
        return keep

    def _labelled(self, source, name, keep=None):
        group = self.recipe.data
        return evaluation_dataset(
            source,
            batch_seconds=PROBE_SECONDS,
            bad_examples=BadExamples(source.name, source.num_examples, group.max_bad, self.warn),
            label=name if isinstance(source, SpeechFiles) else None,
            keep=keep,
            max_seconds=group.max_seconds,
        )


MODALITY = Modality(Data2VecSpeechBackbone, SpeechData, max_masked_spans)
