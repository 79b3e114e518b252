"""Classes of labelled sources: their names, and the same numbers for them everywhere."""

import numpy as np
import tensorflow as tf

from d2v_tf.data.reading import DataError, first_line

# Labels that are fetched at once, of records.
LABEL_BATCH = 1024


def find_classes(source, label=None, num_classes=None):
    """The classes that a training source teaches.

    Args:
        source: from `open_images` or `open_speech_source`.
        label: optional str, of sources of audio files with several kinds of labels: `"tags"`, or
            one of `source.labels`. Defaults to the tags where there are some, else the first kind.
        num_classes: optional int, for records that have numbers without names: their names are
            then `"0"`, `"1"`, ... Without it, all records are read once to count the classes.

    Returns:
        tuple of str, in the order of the labels' numbers.

    Raises:
        DataError: where there are no labels, a single class, or a class without an example.
    """
    labels, names = labels_of(source, label)
    if names is None:
        number = _count_classes(source) if num_classes is None else num_classes
        names = tuple(str(i) for i in range(number))
    if len(names) < 2:
        raise DataError(
            f"data: {source.name} has a single class, {', '.join(names)}: there is nothing to tell "
            "apart. Name a folder whose subfolders are the classes, or a table of several."
        )
    if labels is not None:
        has_example = _has_example(labels, len(names))
        if not has_example.all():
            lacking = [name for name, has in zip(names, has_example, strict=True) if not has]
            raise DataError(
                f"data: {source.name} has no example of {len(lacking)} of its {len(names)} classes:"
                f" {', '.join(lacking[:5])}. Add some, or leave the class out."
            )
    return tuple(names)


def class_numbers(source, class_names, label=None, warn=print):
    """The number that each class of a source has among the classes of a model.

    Args:
        source: from `open_images` or `open_speech_source`.
        class_names: sequence of C str, the model's, from `find_classes` of its training source.
        label: as for `find_classes`.
        warn: callable(str), told where the source has no example of some of the model's classes:
            measures such as the mean over classes then speak for the others only.

    Returns:
        int64 array `[number of the source's classes]`. A source that has no names has the model's
        numbers.

    Raises:
        DataError: where there are no labels, or the source has a class that the model lacks.
    """
    labels, names = labels_of(source, label)
    if names is None:
        return np.arange(len(class_names))
    numbers = numbers_by_name(source.name, names, class_names)
    present = set(names)
    if labels is not None:
        has_example = _has_example(labels, len(names))
        present = {name for name, has in zip(names, has_example, strict=True) if has}
    lacking = [name for name in class_names if name not in present]
    if lacking:
        warn(
            f"{source.name} has no example of {len(lacking)} of the {len(class_names)} classes: "
            f"{', '.join(lacking[:5])}"
        )
    return numbers


def numbers_by_name(of, names, known):
    """A model's number of each class of a source, int64.

    Args:
        of: str. The source, as the user named it.
        names: sequence of str, the source's classes.
        known: sequence of str, the model's.

    Raises:
        DataError: where the model lacks one.
    """
    number = {name: i for i, name in enumerate(known)}
    unknown = [name for name in names if name not in number]
    if unknown:
        raise DataError(
            f"data: {of} has {len(unknown)} classes that the model does not know: "
            f"{', '.join(unknown[:5])}. It knows {len(number)}: {', '.join(known[:5])}"
            f"{', ...' if len(number) > 5 else ''}. Remove or rename them."
        )
    return np.array([number[name] for name in names], "int64")


def default_label(source, multi_label=False):
    """The kind of labels that a model is for where a user names none, as `find_classes` takes it.

    Args:
        source: from `open_images` or `open_speech_source`.
        multi_label: bool. Whether the model gives tags.

    Returns:
        str, the first kind of classes, for a classifier where a source has classes and tags;
        otherwise `None`: tags where there are some, else the first kind.
    """
    kinds = getattr(source, "labels", None)
    return None if multi_label or not isinstance(kinds, dict) else next(iter(kinds), None)


def labels_of(source, label=None):
    """A source's labels and the names of its classes.

    Args:
        source: from `open_images` or `open_speech_source`.
        label: as for `find_classes`.

    Returns:
        (int64 `[N]` or bool `[N, C]`, tuple of str); `None` for the first where the labels come
        with the examples only, for the second where records have numbers without names.

    Raises:
        DataError: where there are no labels, or none of this kind.
    """
    tags = getattr(source, "tags", None)
    kinds = source.labels if isinstance(getattr(source, "labels", None), dict) else None
    if tags is not None and label in (None, "tags"):
        return tags, source.tag_names
    if not source.has_labels:
        raise DataError(
            f"data: {source.name} has no labels. Put the examples of each class into a folder of "
            "its own, or name audio by a table: table:FILE.tsv."
        )
    if kinds is None:
        return getattr(source, "labels", None), source.class_names
    label = label or next(iter(kinds))
    if label not in kinds:
        raise DataError(f"data: {source.name} has no label {label!r}; it has {', '.join(kinds)}.")
    return kinds[label], source.class_names[label]


def check_label(label, num_classes):
    """Fails for an example without a label, or one that no class has; runs in a graph."""
    tf.debugging.assert_greater_equal(label, tf.constant(0, tf.int64), "it has no label")
    last = tf.constant(num_classes - 1, tf.int64)
    tf.debugging.assert_less_equal(
        label, last, f"its class has a number that is not below {num_classes}"
    )


def _count_classes(source):
    """How many classes the records of a `RecordSource` have, whose labels are numbers only."""
    labels = source.once().map(
        lambda record: source.load(record["candidates"][0])["label"],
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    found = set()
    try:
        for batch in labels.batch(LABEL_BATCH).as_numpy_iterator():
            found.update(batch[batch >= 0].tolist())
    except tf.errors.OpError as error:
        raise DataError(f"data: {source.name} is corrupt: {first_line(error)}.") from None
    count = max(found, default=-1) + 1
    if len(found) < count:
        raise DataError(
            f"data: {source.name} has {len(found)} classes without names, numbered up to "
            f"{count - 1}. Number them 0, 1, 2 and so on, or name files: folder:PATH, or for audio "
            "table:FILE."
        )
    return count


def _has_example(labels, num_classes):
    """bool `[C]`, from int `[N]` or bool `[N, C]`."""
    if labels.ndim == 2:
        return labels.any(axis=0)
    return np.bincount(labels[labels >= 0], minlength=num_classes) > 0
