"""Texts in memory, with a class or a score each, or without; and the columns they stand in."""

import dataclasses

import numpy as np

from d2v_tf.data.reading import DataError

# From so many examples on, a class for every second of them is a score that was taken for one.
SCORE_LIKE = 40


@dataclasses.dataclass(frozen=True)
class Columns:
    """Where in a table texts and label stand.

    A column is named as in the table's first line, or numbered from 0. A table whose columns are
    all numbered has no line of names.

    Attributes:
        sentence: str or int.
        second_sentence: optional str or int, of pairs.
        label: str or int; `None` where none is read, of texts to predict.
        regression: bool. Whether the label is a number to predict, not a class.
    """

    sentence: str | int = "sentence"
    second_sentence: str | int | None = None
    label: str | int | None = "label"
    regression: bool = False

    @property
    def texts(self):
        """tuple of str or int: the sentence, and the second one if there is one."""
        return tuple(c for c in (self.sentence, self.second_sentence) if c is not None)

    @property
    def wanted(self):
        """tuple of str or int: `texts`, and the label if one is read."""
        return self.texts if self.label is None else (*self.texts, self.label)


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledText:
    """Texts, or pairs of texts, with a class or a score each.

    Attributes:
        name: str. As the user named it.
        sentences: list of N str.
        labels: int64 array `[N]`, classes; or float32 `[N]`, scores; `None` where none were read.
        class_names: tuple of str, in the order of the classes; `None` for scores.
        second_sentences: optional list of N str.
        places: optional list of N str. Where each example stands: a line, a file, a record.
    """

    name: str
    sentences: list[str]
    labels: np.ndarray | None
    class_names: tuple[str, ...] | None = None
    second_sentences: list[str] | None = None
    places: list[str] | None = None

    @property
    def num_examples(self):
        """int. N."""
        return len(self.sentences)

    @property
    def num_classes(self):
        """int. Outputs that a model needs: 1 for scores."""
        return 1 if self.class_names is None else len(self.class_names)

    def only(self, keep):
        """Some of the examples.

        Args:
            keep: bool array `[N]`.
        """
        chosen = np.flatnonzero(keep)
        second, places = self.second_sentences, self.places
        return dataclasses.replace(
            self,
            sentences=[self.sentences[i] for i in chosen],
            labels=self.labels[chosen],
            second_sentences=None if second is None else [second[i] for i in chosen],
            places=None if places is None else [places[i] for i in chosen],
        )

    def with_classes(self, class_names):
        """The same examples, their classes numbered as those of the set that was trained on.

        Args:
            class_names: tuple of str, or `None` for scores.

        Raises:
            DataError: where a class is not among them, or one has scores and the other classes.
        """
        if (class_names is None) != (self.class_names is None):
            kinds = ("classes", "scores") if class_names is None else ("scores", "classes")
            raise DataError(
                f"data: {self.name} has {kinds[0]} where the training set has {kinds[1]}."
            )
        if class_names is None:
            return self
        number_of = {name: i for i, name in enumerate(class_names)}
        unknown = [name for name in self.class_names if name not in number_of]
        if unknown:
            raise DataError(
                f"data: {self.name} has classes that the training set lacks: "
                f"{', '.join(unknown[:5])}. It has {', '.join(list(class_names)[:5])}."
            )
        numbers = np.array([number_of[name] for name in self.class_names], "int64")
        return dataclasses.replace(
            self, labels=numbers[self.labels], class_names=tuple(class_names)
        )


def as_labelled(name, texts, labels, columns, places):
    """Texts and what was read beside them as `LabelledText`.

    Args:
        name: str.
        texts: list of N tuples of one or two str.
        labels: list of N names of classes, or numbers; not looked at where the columns have none.
        columns: `Columns`.
        places: list of N str.

    Raises:
        DataError: where there are no texts, or so many classes that they must be numbers.
    """
    if not texts:
        raise DataError(f"data: {name} has no examples.")
    sentences, *second = (list(column) for column in zip(*texts, strict=True))
    second = second[0] if second else None
    if columns.label is None:
        return LabelledText(name, sentences, None, None, second, places)
    if columns.regression:
        return LabelledText(name, sentences, np.array(labels, "float32"), None, second, places)
    labels = [str(label) for label in labels]
    class_names = set(labels)
    if len(labels) >= SCORE_LIKE and len(class_names) > len(labels) / 2:
        raise DataError(
            f"data: {name} has {len(class_names):,} classes in {len(labels):,} examples (such as "
            f"{labels[0]!r}). Is {columns.label} a number to predict, a regression?"
        )
    whole = all(c.removeprefix("-").isdecimal() for c in class_names)
    class_names = tuple(sorted(class_names, key=int if whole else str))
    number_of = {class_name: i for i, class_name in enumerate(class_names)}
    numbers = np.array([number_of[label] for label in labels], "int64")
    return LabelledText(name, sentences, numbers, class_names, second, places)
