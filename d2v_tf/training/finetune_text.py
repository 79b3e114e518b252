"""Labelled texts for a fine-tuning run."""

import functools
import zlib

import keras

from d2v_tf.data.glue import glue_task, open_glue
from d2v_tf.data.labelled_sources import open_labelled
from d2v_tf.data.labelled_text import Columns
from d2v_tf.data.reading import DataError
from d2v_tf.data.text_labelled import evaluation_dataset, tokenize, training_dataset
from d2v_tf.data.tokenization import TextTokenizer, load_tokenizer
from d2v_tf.finetuning.metrics import evaluate
from d2v_tf.finetuning.text_classifier import Data2VecTextClassifier
from d2v_tf.finetuning.text_preprocessor import Data2VecTextClassifierPreprocessor
from d2v_tf.training.labelled_data import (
    LabelledData,
    describe_classes,
    predict,
    split_off,
    take_fraction,
)

EVALUATION_BATCH = 64


class TextLabels(LabelledData):
    """Texts, or pairs of them, with a class or a number each.

    Args:
        recipe: a `FinetuneTextRecipe`.
        backbone: `Data2VecTextBackbone`.
        preprocessing: its `Data2VecTextTokenizer`, or `None`.
        warn: callable(str), for what is skipped or cut.

    Raises:
        DataError: where a source cannot be opened, or there is no tokenizer.
    """

    metric = "score"

    def __init__(self, recipe, backbone, preprocessing, warn):
        group = recipe.data
        self.tokenizer = open_tokenizer(group.tokenizer, backbone, preprocessing)
        self.metrics, source, parts = open_texts(recipe, warn)
        # Numbers have no classes to take part of each.
        labels = source.labels if source.class_names else 0 * source.labels.astype("int64")
        source = take_fraction(recipe, source, labels)
        length = group.max_length or backbone.max_sequence_length
        if length > backbone.max_sequence_length:
            raise DataError(
                f"data.max_length: {length} is more than the {backbone.max_sequence_length} tokens "
                "that the backbone takes (max_sequence_length)."
            )
        self.length = length
        self.are_pairs = source.second_sentences is not None
        as_ids = functools.partial(tokenize, tokenizer=self.tokenizer, sequence_length=length)
        self.texts = as_ids(source)
        self.parts = {name: as_ids(part) for name, part in parts.items()}
        if self.texts.num_cut:
            warn(f"{source.name}: {self.texts.describe()}")
        super().__init__(recipe, warn, source, next(iter(parts.values())))

    @property
    def fingerprint(self):
        """str. Of the tokens: texts have no names."""
        found = zlib.crc32(self.texts.row_splits.tobytes())
        return f"{zlib.crc32(self.texts.token_ids.tobytes(), found):08x}"

    def describe_labels(self):
        """str. What is told apart, for the summary."""
        names = self.texts.class_names
        return "a number" if names is None else describe_classes(names)

    def build_task(self, backbone):
        """A classifier on the backbone, or a regression, compiled with its loss."""
        head, names = self.recipe.head, self.texts.class_names
        task = Data2VecTextClassifier(
            backbone,
            self.texts.num_classes,
            class_names=names,
            dropout=head.dropout,
            pooling=head.pooling,
        )
        loss = keras.losses.MeanSquaredError()
        if names is not None:
            loss = keras.losses.CategoricalCrossentropy(
                from_logits=True, label_smoothing=head.label_smoothing
            )
        task.compile(loss=loss, metrics=None)
        return task

    def batches(self, step):
        """The batches from update `step` on, without end."""
        recipe = self.recipe
        return training_dataset(
            self.texts,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            start=step * recipe.batch_size,
            lengths=self.texts.bucket_lengths(recipe.data.buckets),
        )

    def evaluate(self, task):
        """The task's metrics and their mean, `score`; of further parts with the part's name."""
        scores = {}
        for name, part in self.parts.items():
            lengths = part.bucket_lengths(self.recipe.data.buckets)
            dataset = evaluation_dataset(part, batch_size=EVALUATION_BATCH, lengths=lengths)
            found = evaluate(self.metrics, *predict(task, dataset), self.texts.class_names)
            for note in found.notes:
                self.warn(note)
            prefix = f"{name}/" if scores else ""
            scores |= {f"{prefix}{metric}": value for metric, value in found.scores.items()}
            scores[f"{prefix}score"] = found.score
        return scores

    def save_preset(self, task, folder):
        """Writes the classifier, with what makes its input out of strings."""
        task.preprocessor = Data2VecTextClassifierPreprocessor(
            self.tokenizer.in_graph(), sequence_length=self.length, pairs=self.are_pairs
        )
        task.compile()  # what it was trained with is no part of it
        task.save_to_preset(folder)


def open_texts(recipe, warn):
    """The labelled texts of a recipe.

    Args:
        recipe: a `FinetuneTextRecipe`.
        warn: callable(str), for lines that are skipped.

    Returns:
        (names of metrics, `LabelledText` to train on, dict of name to one to measure on).

    Raises:
        DataError: where a source cannot be opened, or the two have not the same classes.
    """
    group = recipe.data
    options = {"tfds_dir": group.tfds_dir, "max_bad": group.max_bad, "warn": warn}
    if recipe.task.startswith("glue:"):
        name = recipe.task.removeprefix("glue:")
        task = glue_task(name)
        parts = {
            split: open_glue(name, group.source, split, **options)
            for split in task.evaluation_splits
        }
        return task.metrics, open_glue(name, group.source, "train", **options), parts
    columns = Columns(**group.columns.model_dump())
    source = open_labelled(group.source, columns, **options)
    if group.eval_source is None:
        source, eval_source = split_off(source)
    else:
        eval_source = open_labelled(group.eval_source, columns, **options)
        eval_source = eval_source.with_classes(source.class_names)
    metrics = ("pearson", "spearman") if source.class_names is None else ("accuracy",)
    return metrics, source, {"dev": eval_source}


def open_tokenizer(path, backbone, layer):
    """The tokenizer of a run: that of a folder, or the one that came with the backbone.

    Args:
        path: optional str. As `load_tokenizer` takes it.
        backbone: `Data2VecTextBackbone`.
        layer: `Data2VecTextTokenizer`, or `None`.

    Returns:
        `TextTokenizer`.

    Raises:
        DataError: where there is none, or it has more tokens than the backbone.
    """
    if path is not None:
        tokenizer = load_tokenizer(path)
    elif layer is not None:
        tokenizer = TextTokenizer.from_layer(layer)
    else:
        raise DataError(
            "data.tokenizer: the backbone came without a tokenizer, as all do from scratch. Give "
            "the folder of one, as in --set data.tokenizer=corpus/tokenizer; tools/prepare.py "
            "--modality=text makes one. From scratch, give the recipe that belongs to it, too, as "
            "in --set scratch=RUN/config.yaml."
        )
    if tokenizer.vocabulary_size > backbone.vocabulary_size:
        raise DataError(
            f"data.tokenizer: it has {tokenizer.vocabulary_size:,} tokens and the backbone "
            f"{backbone.vocabulary_size:,} (vocabulary_size). Give the one it was trained with; "
            "from scratch, a recipe with so many, as in --set scratch=RUN/config.yaml."
        )
    return tokenizer


TASKS = {"classify": TextLabels, "glue": TextLabels}
