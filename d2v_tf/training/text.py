"""The text data of a run: batches for training, labelled sets for the probes."""

import functools
import os

import numpy as np
import tensorflow as tf

from d2v_tf.backbones.text import Data2VecTextBackbone
from d2v_tf.data.labelled_sources import read_labelled
from d2v_tf.data.reading import DataError
from d2v_tf.data.text import open_corpus, pretraining_dataset
from d2v_tf.data.text_labelled import evaluation_dataset, tokenize
from d2v_tf.data.tokenization import Data2VecTextTokenizer, TextTokenizer
from d2v_tf.finetuning.text_features import bag_of_words_features, frequent_token_ids
from d2v_tf.interop.preprocessing import load_preprocessing
from d2v_tf.masking import max_masked_tokens
from d2v_tf.training.evidence import ProbeTask
from d2v_tf.training.modalities import Modality
from d2v_tf.training.run_data import RunData, evenly

PROBE_BATCH = 64


def tokenizer_of(init):
    """The `TextTokenizer` beside what a run starts from; `None` where there is none, or no more."""
    if init is None or not os.path.exists(init):
        return None
    layer = load_preprocessing(init)
    return TextTokenizer.from_layer(layer) if isinstance(layer, Data2VecTextTokenizer) else None


class TextData(RunData):
    """What a run reads.

    Args:
        recipe: a `TextRecipe`.
        warn: callable(str), for a row that is skipped.

    Raises:
        DataError: where the corpus cannot be opened, or has another vocabulary than the model.
    """

    def __init__(self, recipe, warn):
        group, model = recipe.data, recipe.model
        own = tokenizer_of(recipe.init)
        given = group.tokenizer or own
        self.corpus = open_corpus(
            group.source,
            row_length=model.max_sequence_length,
            vocabulary_size=None if given else model.vocabulary_size,
            tokenizer=given,
        )
        tokenizer = self.corpus.tokenizer
        if own is not None and tokenizer.vocabulary != own.vocabulary:
            raise DataError(
                f"data: {group.source} was tokenized otherwise than what {recipe.init} was trained "
                "on, so its embeddings are of other tokens. Prepare the text with the tokenizer in "
                f"that folder: tools/prepare.py --modality=text --tokenizer={recipe.init}."
            )
        if recipe.init and own is None:
            warn(
                f"{recipe.init} came without a tokenizer: the data's has to be the one that it was "
                "trained with"
            )
        if (
            tokenizer.vocabulary_size > model.vocabulary_size
            or self.corpus.row_length > model.max_sequence_length
        ):
            raise DataError(
                f"data: {group.source} has rows of {self.corpus.row_length} tokens of a vocabulary "
                f"of {tokenizer.vocabulary_size:,}; the model takes {model.max_sequence_length} "
                f"(model.max_sequence_length) of {model.vocabulary_size:,} "
                "(model.vocabulary_size). Prepare the text for it: --row_length="
                f"{model.max_sequence_length} --vocab_size={model.vocabulary_size}; or choose a "
                "recipe for such text, such as configs/pretrain/text_base.yaml."
            )
        if tokenizer.padding_token_id != model.padding_token_id:
            raise DataError(
                f"data: the tokenizer of {group.source} pads with {tokenizer.padding_token_id}, "
                f"and model.padding_token_id is {model.padding_token_id}. Set that: "
                f"--set model.padding_token_id={tokenizer.padding_token_id}."
            )
        super().__init__(recipe, warn, self.corpus.source)

    @property
    def batches_per_epoch(self):
        """float. Updates that see every row once."""
        return self.num_examples / self.recipe.batch_size

    def describe_batch(self):
        """str. What an update sees, for the summary."""
        tokens = self.recipe.batch_size * self.corpus.row_length
        return f"{self.recipe.batch_size} rows of {self.corpus.row_length}, {tokens:,} tokens"

    def batches(self, step, num_workers=1, worker=0):
        """The batches from update `step` on, without end; of several workers, this one's rows."""
        size = self.recipe.batch_size
        start, own = step * size, size // num_workers
        return self._batches(start, own, self.bad_examples, num_shards=num_workers, shard=worker)

    def first_examples(self, count):
        """A batch of the run's first `count` rows, masked as an update sees them."""
        return next(iter(self._batches(0, count, self.count_silently(self.source))))

    def _batches(self, start, batch_size, bad_examples, **shards):
        recipe, mask = self.recipe, self.recipe.mask
        return pretraining_dataset(
            self.corpus,
            sequence_length=recipe.model.max_sequence_length,
            batch_size=batch_size,
            seed=recipe.seed,
            start=start,
            ratio=mask.ratio,
            span_length=mask.span_length,
            random_part=mask.random_part,
            keep_part=mask.keep_part,
            bad_examples=bad_examples,
            shuffle=recipe.data.shuffle,
            **shards,
        )

    def whole_examples(self, count, batch_size):
        """About `count` texts for pictures of what the backbone makes of them.

        They are what the first of `data.probe_folders` is tested on; where there is none, the run's
        own rows.

        Returns:
            (dataset of (inputs, labels int64 `[B]`, -1 = none), tuple of class names or `None`).
        """
        folders = self.recipe.data.probe_folders
        if folders:
            test = read_labelled(os.path.join(folders[0], "dev.tsv"))
            test = test.only(evenly(np.ones(test.num_examples, bool), count))
            return self._classes(test, batch_size), test.class_names
        count = min(count, self.num_examples)  # rows come again and again
        rows = self.first_examples(count)
        inputs = {"token_ids": rows["target_token_ids"], "padding_mask": rows["padding_mask"]}
        none = tf.fill([count], tf.constant(-1, tf.int64))
        return tf.data.Dataset.from_tensor_slices((inputs, none)).batch(batch_size), None

    def probe_tasks(self):
        """What the backbone is probed on: the folders of `data.probe_folders`.

        Returns:
            list of `ProbeTask`, named after the folders.

        Raises:
            DataError: where a folder lacks a table.
        """
        return [self._probe_task(folder) for folder in self.recipe.data.probe_folders]

    def _probe_task(self, folder):
        tokenizer = self.corpus.tokenizer
        train = read_labelled(os.path.join(folder, "train.tsv"))
        test = read_labelled(os.path.join(folder, "dev.tsv")).with_classes(train.class_names)
        limit = self.recipe.data.probe_examples
        train = train.only(evenly(np.ones(train.num_examples, bool), limit))
        train = self._classes(train)

        @functools.cache  # a run that is continued has its baseline, and counts nothing
        def counted():
            return frequent_token_ids(train, tokenizer.special_token_ids)

        return ProbeTask(
            os.path.basename(os.path.normpath(folder)),
            train,
            self._classes(test),
            "bag of tokens",
            lambda dataset: bag_of_words_features(dataset, counted()),
        )

    def _classes(self, labelled, batch_size=PROBE_BATCH):
        """Labelled texts with the numbers of their classes, which is what probes count in."""
        length = self.recipe.model.max_sequence_length
        tokenized = tokenize(labelled, self.corpus.tokenizer, length)
        dataset = evaluation_dataset(tokenized, batch_size=batch_size)
        return dataset.map(lambda inputs, labels: (inputs, tf.argmax(labels, axis=1)))

    def save_preprocessing(self, folder):
        """Adds the tokenizer to a preset."""
        self.corpus.tokenizer.in_graph().save_to_preset(folder)


def max_masked(recipe):
    """The most masked tokens of a row."""
    mask = recipe.mask
    return max_masked_tokens(recipe.model.max_sequence_length, mask.ratio, mask.span_length)


MODALITY = Modality(Data2VecTextBackbone, TextData, max_masked)
