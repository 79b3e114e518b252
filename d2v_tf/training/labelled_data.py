"""What the data of a fine-tuning run has in common, whatever the task."""

import keras
import numpy as np
from keras import ops

from d2v_tf.data.reading import DataError
from d2v_tf.data.records import RecordSource
from d2v_tf.data.subsets import stratified_subset
from d2v_tf.training.run_data import RunData, hold_out


class LabelledData(RunData):
    """What a fine-tuning run reads and is measured on.

    A task's class adds `build_task(backbone)`, `batches(step)`, `evaluate(task)`,
    `describe_labels()` and `save_preset(task, folder)`.

    Args:
        recipe: a `FinetuneRecipe`.
        warn: callable(str), for an example that is skipped.
        source: what is trained on; has `name` and `num_examples`.
        eval_source: what is measured on.

    Attributes:
        metric: str. Which of the numbers that `evaluate` gives decides what is best.
        higher_is_better: bool.
    """

    metric = "accuracy"
    higher_is_better = True

    def __init__(self, recipe, warn, source, eval_source):
        super().__init__(recipe, warn, source)
        self.eval_source = eval_source

    @property
    def eval_name(self):
        """str. What is measured on, for the summary."""
        return f"{self.eval_source.name}, {self.eval_source.num_examples:,} examples"

    @property
    def batches_per_epoch(self):
        """float. Updates that see every example once."""
        return self.num_examples / self.recipe.batch_size

    def describe_samples(self, scores):
        """Lines to print below an evaluation."""
        return []


def describe_classes(names):
    """str. How many classes there are, and what the first are called, for the summary."""
    more = ", ..." if len(names) > 10 else ""
    return f"{len(names)} classes: {', '.join(names[:10])}{more}"


def split_off(source):
    """A source in two, where nothing is named to measure on: every fifth example is.

    Args:
        source: has `num_examples` and `only(keep)`.

    Returns:
        (source to train on, source to measure on).

    Raises:
        DataError: for a source that is read front to back.
    """
    if isinstance(source, RecordSource):
        raise DataError(
            f"data: {source.name} is read front to back, so no part of it can be kept to measure "
            "on. Name something to measure on by --eval_data, such as another split."
        )
    keep = hold_out(source.num_examples)
    return source.only(keep), source.only(~keep)


def take_fraction(recipe, source, labels):
    """The part of a training source that the recipe's `label_fraction` asks for.

    Args:
        recipe: a `FinetuneRecipe`.
        source: has `only(keep)`.
        labels: int `[N]` or bool `[N, C]`, of which every class keeps its part; `None` for a source
            that is read front to back.

    Raises:
        DataError: for such a source, unless all of it is asked for.
    """
    if recipe.label_fraction == 1:
        return source
    if isinstance(source, RecordSource):
        raise DataError(
            f"label_fraction: {source.name} is read front to back, so no part of its labels can be "
            "chosen. Name files: folder:PATH, or for audio manifest:FILE or table:FILE."
        )
    return source.only(stratified_subset(labels, recipe.label_fraction, recipe.seed))


def predict(task, dataset):
    """What a task gives for every example.

    Args:
        task: the task model.
        dataset: of (inputs, labels `[B, ...]`), each example once.

    Returns:
        (outputs `[N, ...]`, labels `[N, ...]`): float32 arrays.
    """
    outputs, labels = [], []
    for inputs, batch_labels in dataset:
        # Not the task's own, which would apply a preprocessor to what is ready.
        batch = keras.Model.predict_on_batch(task, inputs)
        outputs.append(np.asarray(ops.cast(batch, "float32")))
        labels.append(np.asarray(batch_labels))
    return np.concatenate(outputs), np.concatenate(labels)
