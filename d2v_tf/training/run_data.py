"""What the data of a run has in common, whatever it is."""

import zlib

import numpy as np
import tensorflow as tf

from d2v_tf.data.input_errors import explain_input
from d2v_tf.data.reading import BadExamples, DataError
from d2v_tf.data.records import RecordSource


class RunData:
    """What a run reads: its source, and what in it could not be read.

    A modality's class adds `batches_per_epoch`, `describe_batch()`, `batches(step, num_workers,
    worker)`, `probe_tasks()` and `save_preprocessing(folder)`; and for pictures
    `first_examples(count)` and `whole_examples(count, batch_size)`.

    Args:
        recipe: a recipe; its `data` group is read.
        warn: callable(str), for an example that is skipped.
        source: has `name` and `num_examples`.

    Attributes:
        reader: optional str. What decodes the data, where that depends on what is installed.
    """

    reader = None

    def __init__(self, recipe, warn, source):
        self.recipe, self.warn, self.source = recipe, warn, source
        self._counters, self._sources = [], []
        self.bad_examples = self.count_bad(source)

    @property
    def name(self):
        """str. What is read, for the summary."""
        return self.source.name

    @property
    def num_examples(self):
        """int. Examples in the source."""
        return self.source.num_examples

    @property
    def fingerprint(self):
        """str. Of what decides the order of examples: their names, lengths, or the shards."""
        names = getattr(self.source, "names", None)
        if names is None:
            names = [f"{file} {skip} {take}" for file, skip, take in self.source.parts]
        elif isinstance(names, range):  # rows of text have numbers
            names = [str(names)]
        found = zlib.crc32(np.asarray(getattr(self.source, "lengths", ())).tobytes())
        for name in names:
            found = zlib.crc32(name.encode("utf-8", "surrogateescape"), found)
        return f"{found:08x}"

    @property
    def batch_sizes(self):
        """list of int. Examples in the batches of an update, over all workers."""
        return [self.recipe.batch_size]

    def check_parts(self, replicas):
        """Refuses batches that so many replicas cannot share equally.

        Raises:
            DataError: names the batch.
        """
        accumulate = self.recipe.accumulate
        parts = replicas * accumulate
        uneven = [size for size in self.batch_sizes if size % parts]
        if uneven:
            in_parts = f", each in {accumulate} parts (accumulate)" if accumulate > 1 else ""
            raise DataError(
                f"data: a batch of {uneven[0]} examples cannot be shared equally by {replicas} "
                f"replicas{in_parts}. Use as many replicas as divide it (CUDA_VISIBLE_DEVICES=0,1 "
                f"makes two GPUs all that there are), or {self.uneven_advice}."
            )

    uneven_advice = "another batch_size"
    # What else than TensorFlow decodes the data; a data service has nothing else.
    needs_python = None

    def check_services(self, services, num_workers):
        """Refuses data services that cannot decode the data or share it equally.

        Args:
            services: sequence of addresses.
            num_workers: int. Processes that train together.

        Raises:
            DataError: says which it is.
        """
        if services and self.needs_python:
            raise DataError(
                f"--data_service: a service decodes images and text, and {self.needs_python}, "
                "which it has not. Leave the flag out."
            )
        parts = max(len(services), 1) * num_workers
        if services and self.recipe.batch_size % parts:
            raise DataError(
                f"--data_service: a batch of {self.recipe.batch_size} examples cannot be shared "
                f"equally by {len(services)} services for {num_workers} workers. Give as many as "
                "divide it."
            )

    def counts(self):
        """Numbers to log with every logged update."""
        return {"bad_examples": self.bad_examples.count}

    def count_bad(self, source):
        """A `BadExamples` for a source, whose error `explain` knows."""
        return self._count(source, self.warn)

    def count_silently(self, source):
        """A `BadExamples` for what is read once more: the run names and counts what is bad."""
        return self._count(source, lambda _: None)

    def _count(self, source, warn):
        counter = BadExamples(source.name, source.num_examples, self.recipe.data.max_bad, warn)
        self._counters.append(counter)
        self._sources.append(source)
        return counter

    def explain(self, error):
        """The `DataError` behind a TensorFlow error from an input pipeline, or that error."""
        if "Could not find callback with key=pyfunc" in str(error):  # which counts bad examples
            return DataError(
                f"data: an example of {self.name} cannot be read, and a data service does not "
                "replace it. Without --data_service the run names it and goes on."
            )
        for counter in self._counters:
            if counter.error is not None:
                return counter.error
        return explain_input(error, self._sources) or error


def hold_out(num_examples):
    """Which examples are for training where a source has no part for testing: bool `[N]`.

    Every fifth is for testing.
    """
    for_training = np.ones(num_examples, bool)
    for_training[4::5] = False
    return for_training


def evenly(keep, limit):
    """At most `limit` of the examples, evenly spread.

    Args:
        keep: bool array `[N]`, the examples wanted.
        limit: int.
    """
    if keep.sum() <= limit:
        return keep
    chosen = np.flatnonzero(keep)[np.linspace(0, keep.sum() - 1, limit).astype(int)]
    return np.isin(np.arange(len(keep)), chosen)


def some_of(source, count, labels=None, most_classes=10):
    """Which examples are looked at: at most `count`, evenly spread, of a few classes.

    Args:
        source: has `num_examples`. Of one that is read front to back, the first examples are taken.
        count: int.
        labels: optional int array `[N]`.
        most_classes: int. More could not be told apart by their colors.

    Returns:
        bool array `[N]`.
    """
    if isinstance(source, RecordSource):
        return np.arange(source.num_examples) < count
    keep = np.ones(source.num_examples, bool)
    if labels is not None and (labels >= 0).any():
        classes = np.unique(labels[labels >= 0])
        keep = np.isin(labels, classes[evenly(np.ones(len(classes), bool), most_classes)])
    return evenly(keep, count)


def match_classes(dataset, train_names, test_names, test_source):
    """Gives the examples of another source the class numbers of the training set.

    Args:
        dataset: of (inputs, labels int64 `[B]`), as the other source numbers them.
        train_names, test_names: sequences of str, or `None` where a source knows only numbers,
            which then are taken as they are.
        test_source: str, for messages.

    Returns:
        The dataset with labels changed.

    Raises:
        DataError: where the other source has a class that the training set lacks.
    """
    if train_names is None or test_names is None or train_names == test_names:
        return dataset
    unknown = sorted(set(test_names) - set(train_names))
    if unknown:
        raise DataError(
            f"data.eval_source: {test_source} has classes that the training set lacks: "
            f"{', '.join(unknown[:5])}. Leave it out, and every fifth example is for testing."
        )
    number = {name: i for i, name in enumerate(train_names)}
    numbers = tf.constant([number[name] for name in test_names], tf.int64)
    return dataset.map(lambda inputs, labels: (inputs, tf.gather(numbers, labels)))
