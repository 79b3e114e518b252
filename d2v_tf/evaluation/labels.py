"""Examples' labels as a model numbers its outputs, and whether they are of its kind."""

import numpy as np

from d2v_tf.data.labels import numbers_by_name
from d2v_tf.data.reading import DataError


def number_labels(examples, task):
    """The labels of examples, as a classifier, a tagger or a regression takes them.

    Args:
        examples: `Examples`.
        task: has `num_classes`, `class_names` and, if it is a tagger, `multi_label`.

    Returns:
        (int64 `[N]`, classes; bool `[N, C]`, tags, of a tagger; or float32 `[N]`, numbers, of a
        regression; bool `[N]`, which of the examples have a label).

    Raises:
        DataError: where there are no labels, they are of another kind than what the model gives, or
            a class is not among the model's.
    """
    labels = examples.labels
    if labels is None:
        raise DataError(f"data: {examples.name} has no labels to measure with.")
    is_tagger = is_multi_label(task)
    if is_regression(task):
        if examples.class_names is not None:
            raise DataError(
                f"data: {examples.name} has classes, and the model gives a number. Name a table "
                "whose labels are numbers."
            )
        return labels.astype("float32"), np.ones(len(labels), bool)
    if np.issubdtype(labels.dtype, np.floating):
        raise DataError(
            f"data: {examples.name} has numbers, and the model gives "
            f"{'tags' if is_tagger else 'a class'}. Name examples with classes."
        )
    if labels.ndim == 2 and not is_tagger:
        raise DataError(
            f"data: {examples.name} has tags, any number of them an example, and the model gives "
            "one class. Name a table with a column of classes, or measure a tagger."
        )
    numbers = _numbers_of_classes(examples, task)
    if labels.ndim == 2:
        tags = np.zeros((len(labels), task.num_classes), bool)
        tags[:, numbers] = labels
        return tags, np.ones(len(labels), bool)  # without a tag, none applies
    known = labels >= 0
    labels = np.where(known, numbers[labels], -1)
    if is_tagger:
        return np.eye(task.num_classes, dtype=bool)[labels], known
    return labels, known


def is_multi_label(task):
    """bool. Whether a task is a tagger: any number of its classes may apply."""
    return getattr(task, "multi_label", False)


def is_regression(task):
    """bool. Whether a task gives a number."""
    return getattr(task, "num_classes", None) == 1 and not is_multi_label(task)


def _numbers_of_classes(examples, task):
    """The model's number of each class of the examples, int64; by name where both have names."""
    names, known = examples.class_names, task.class_names
    if names is None or known is None:
        count = len(names) if names is not None else int(examples.labels.max(initial=-1)) + 1
        if count > task.num_classes:
            raise DataError(
                f"data: {examples.name} has {count} classes, and the model {task.num_classes}."
            )
        return np.arange(task.num_classes)[: count or 1]
    return numbers_by_name(examples.name, names, known)
