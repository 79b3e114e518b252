"""Labelled and transcribed recordings for a fine-tuning run."""

import functools

import keras
import numpy as np

from d2v_tf.backbones.preprocessing import Data2VecAudioConverter
from d2v_tf.data.audio_labelled import evaluation_dataset, plan_training, training_dataset
from d2v_tf.data.labels import default_label, find_classes, labels_of
from d2v_tf.data.reading import DataError
from d2v_tf.data.records import RecordSource
from d2v_tf.data.speech_sources import open_speech_source
from d2v_tf.data.transcribed import (
    check_transcribed,
    plan_transcribed,
    recognition_dataset,
    trainable_utterances,
    transcribed_dataset,
)
from d2v_tf.finetuning.audio_classifier import Data2VecAudioClassifier
from d2v_tf.finetuning.ctc import Data2VecSpeechCTC
from d2v_tf.finetuning.letters import count_unknown, encode_letters, letter_vocabulary
from d2v_tf.finetuning.metrics import evaluate
from d2v_tf.finetuning.preprocessors import Data2VecAudioClassifierPreprocessor
from d2v_tf.finetuning.recognition import evaluate_ctc
from d2v_tf.training.labelled_data import (
    LabelledData,
    describe_classes,
    predict,
    split_off,
    take_fraction,
)
from d2v_tf.training.speech import SpeechData, size_multiple

# Audio in a batch that is measured on, in seconds.
EVALUATION_SECONDS = 160.0
# Transcripts that are printed after an evaluation.
NUM_SAMPLES = 3


class Transcripts(LabelledData):
    """Recordings with their transcripts.

    Args:
        recipe: a `FinetuneSpeechRecipe`.
        backbone: `Data2VecSpeechBackbone`.
        preprocessing: not used: waveforms are normalized in one way.
        warn: callable(str), for a file that is skipped.

    Raises:
        DataError: where a source cannot be opened, or has no transcripts.
    """

    metric = "wer"
    higher_is_better = False

    def __init__(self, recipe, backbone, preprocessing, warn):
        source, eval_source = open_pair(recipe.data, check_transcribed)
        # Of all that there is: a part may lack letters, which the model is then asked for.
        self.vocabulary = letter_vocabulary(source.transcripts)
        source = take_fraction(recipe, source, np.zeros(source.num_examples, "int64"))
        super().__init__(recipe, warn, source, eval_source)
        self.utterances, self.letters = trainable_utterances(
            source,
            functools.partial(encode_letters, vocabulary=self.vocabulary),
            backbone.feature_lengths,
            self.bad_examples,
            recipe.data.max_seconds,
        )
        unknown = count_unknown(eval_source.transcripts, self.vocabulary)
        if unknown:
            counts = ", ".join(f"{letter!r} {count:,} times" for letter, count in unknown.items())
            warn(
                f"{eval_source.name} has letters that no transcript in {source.name} has: {counts}."
                " The model cannot hear them, and each counts as an error."
            )
        self.batching = {
            "batch_seconds": recipe.batch_size * recipe.data.max_seconds,
            "buckets": recipe.data.buckets,
            "seed": recipe.seed,
            "multiple_of": size_multiple(recipe.data),
        }

    @functools.cached_property
    def _plan(self):
        return plan_transcribed(self.utterances, **self.batching)

    @property
    def batches_per_epoch(self):
        """float. Updates that see every utterance once."""
        return self._plan.batches_per_epoch

    @property
    def batch_sizes(self):
        """list of int. Utterances in a batch of each length."""
        return [size for size, _ in self._plan.shapes]

    uneven_advice = SpeechData.uneven_advice

    def describe_labels(self):
        """str. What is recognized, for the summary."""
        letters = "".join(entry for entry in self.vocabulary if len(entry) == 1)
        return f"{len(letters)} letters: {letters}"

    def build_task(self, backbone):
        """A CTC model on the backbone, compiled with its loss."""
        arguments = self.recipe.head.model_dump(exclude={"label_smoothing"})
        task = Data2VecSpeechCTC(backbone, self.vocabulary, **arguments)
        task.compile()
        return task

    def batches(self, step):
        """The batches from update `step` on, without end."""
        return transcribed_dataset(
            self.utterances,
            self.letters,
            **self.batching,
            start=step,
            bad_examples=self.bad_examples,
        )

    def evaluate(self, task):
        """Word and character error rates, decoded greedily, and some transcripts: a dict."""
        dataset = recognition_dataset(
            self.eval_source,
            batch_seconds=EVALUATION_SECONDS,
            bad_examples=self.count_bad(self.eval_source),
        )
        report = evaluate_ctc(task, dataset, self.eval_source.transcripts)
        return {"wer": report.wer, "cer": report.cer, "samples": report.samples[:NUM_SAMPLES]}

    def describe_samples(self, scores):
        """What was said and what was heard, of the first recordings."""
        lines = []
        for reference, hypothesis in scores["samples"]:
            lines += [f"said:  {reference}", f"heard: {hypothesis}"]
        return lines

    def save_preset(self, task, folder):
        """Writes the model, with what makes its input out of waveforms."""
        save_with_converter(task, folder)


class AudioClasses(LabelledData):
    """Recordings with a class each.

    Args:
        recipe: a `FinetuneSpeechRecipe`.
        backbone: `Data2VecSpeechBackbone`.
        preprocessing: not used: waveforms are normalized in one way.
        warn: callable(str), for a file that is skipped.

    Raises:
        DataError: where a source cannot be opened, or has no such labels.
    """

    multi_label = False
    metrics = ("accuracy", "macro_f1")

    def __init__(self, recipe, backbone, preprocessing, warn):
        group = recipe.data
        source, eval_source = open_pair(group)
        label = group.label or default_label(source, self.multi_label)
        self.class_names = find_classes(source, label)
        labels, _ = labels_of(source, label)
        if labels is not None and labels.ndim == 2 and not self.multi_label:
            raise DataError(
                f"data: {source.name} has tags, any number of them a recording: give --task=tag."
            )
        source = take_fraction(recipe, source, labels)
        super().__init__(recipe, warn, source, eval_source)
        self.batching = {
            "batch_size": recipe.batch_size,
            "min_seconds": group.min_seconds,
            "max_seconds": group.max_seconds,
            "buckets": group.buckets,
            "seed": recipe.seed,
        }
        self.view = {"class_names": self.class_names, "label": label}

    @functools.cached_property
    def batches_per_epoch(self):
        """float. Updates that see every recording once."""
        if isinstance(self.source, RecordSource):  # whose batches all have the longest length
            return super().batches_per_epoch
        plan = plan_training(self.source, label=self.view["label"], **self.batching)
        return plan.batches_per_epoch

    def describe_labels(self):
        """str. What is told apart, for the summary."""
        return describe_classes(self.class_names)

    def build_task(self, backbone):
        """A classifier on the backbone, compiled with its loss."""
        head = self.recipe.head
        task = Data2VecAudioClassifier(
            backbone,
            len(self.class_names),
            class_names=self.class_names,
            multi_label=self.multi_label,
            **head.model_dump(exclude={"label_smoothing"}),
        )
        loss = keras.losses.BinaryCrossentropy
        if not self.multi_label:
            loss = keras.losses.CategoricalCrossentropy
        task.compile(
            loss=loss(from_logits=True, label_smoothing=head.label_smoothing), metrics=None
        )
        return task

    def batches(self, step):
        """The batches from update `step` on, without end."""
        return training_dataset(
            self.source,
            **self.view,
            **self.batching,
            start=step * self.recipe.batch_size,
            mixup=self.recipe.data.mixup,
            bad_examples=self.bad_examples,
        )

    def evaluate(self, task):
        """The task's metrics: dict of floats."""
        dataset = evaluation_dataset(
            self.eval_source,
            **self.view,
            batch_seconds=EVALUATION_SECONDS,
            max_seconds=self.recipe.data.max_seconds,
            bad_examples=self.count_bad(self.eval_source),
        )
        found = evaluate(self.metrics, *predict(task, dataset), self.class_names)
        return dict(found.scores)

    def save_preset(self, task, folder):
        """Writes the classifier, with what makes its input out of waveforms."""
        save_with_converter(task, folder)


class AudioTags(AudioClasses):
    """Recordings with any number of tags each."""

    multi_label = True
    metrics = ("mean_average_precision",)
    metric = "mean_average_precision"


def open_pair(group, check=None):
    """The sources that a recipe names.

    Args:
        group: a `FinetuneSpeechData`.
        check: optional function of a source, which refuses what the task has no use for.

    Returns:
        (source to train on, source to measure on).
    """

    def as_source(spec):
        source = open_speech_source(spec, tfds_dir=group.tfds_dir, cache_dir=group.cache_dir)
        if check is not None:
            check(source)
        return source

    source = as_source(group.source)
    if group.eval_source is not None:
        return source, as_source(group.eval_source)
    if group.source == "builtin":
        return source, as_source("builtin:test")
    return split_off(source)


def save_with_converter(task, folder):
    """Writes a task, with what makes its input out of waveforms."""
    task.preprocessor = Data2VecAudioClassifierPreprocessor(Data2VecAudioConverter())
    task.compile()  # what it was trained with is no part of it
    task.save_to_preset(folder)


TASKS = {"classify": AudioClasses, "tag": AudioTags, "ctc": Transcripts}
