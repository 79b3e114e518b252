"""Texts with classes or scores: tables, folders of documents, and TFDS, read whole."""

import csv
import dataclasses
import os

import numpy as np
import tensorflow as tf

from d2v_tf.data.documents import BYTE_ORDER_MARK, join_lines
from d2v_tf.data.reading import BadExamples, DataError, first_line
from d2v_tf.data.records import RecordSource
from d2v_tf.data.sources import open_source
from d2v_tf.data.tfds import open_builder

DOCUMENT_ENDING = ".txt"
# From so many examples on, a class for every second of them is a score that was taken for one.
SCORE_LIKE = 40
READ_BATCH = 1024


@dataclasses.dataclass(frozen=True)
class Columns:
    """Where in a table texts and label stand.

    A column is named as in the table's first line, or numbered from 0. A table whose columns are
    all numbered has no line of names.

    Attributes:
        sentence: str or int.
        second_sentence: optional str or int, of pairs.
        label: str or int.
        regression: bool. Whether the label is a number to predict, not a class.
    """

    sentence: str | int = "sentence"
    second_sentence: str | int | None = None
    label: str | int = "label"
    regression: bool = False

    @property
    def wanted(self):
        """tuple of str or int: sentence, label, and the second sentence if there is one."""
        second = () if self.second_sentence is None else (self.second_sentence,)
        return (self.sentence, self.label, *second)


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledText:
    """Texts, or pairs of texts, with a class or a score each.

    Attributes:
        name: str. As the user named it.
        sentences: list of N str.
        labels: int64 array `[N]`, classes; or float32 `[N]`, scores.
        class_names: tuple of str, in the order of the classes; `None` for scores.
        second_sentences: optional list of N str.
    """

    name: str
    sentences: list[str]
    labels: np.ndarray
    class_names: tuple[str, ...] | None = None
    second_sentences: list[str] | None = None

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
        second = self.second_sentences
        return dataclasses.replace(
            self,
            sentences=[self.sentences[i] for i in chosen],
            labels=self.labels[chosen],
            second_sentences=None if second is None else [second[i] for i in chosen],
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


def open_labelled(spec, columns=None, tfds_dir=None, max_bad=0.01, warn=print):
    """Reads the labelled texts that a `SOURCE` string names.

    Args:
        spec: str. `table:FILE`, tab-separated, or comma-separated if it ends in `.csv`;
            `folder:DIR`, a folder of `.txt` files a class; or `tfds:NAME[/CONFIG][:SPLIT]`.
        columns: optional `Columns`, of a table or of TFDS' features.
        tfds_dir: optional str. Where TFDS keeps its datasets.
        max_bad: float. The part of the examples that may be bad; they are left out.
        warn: callable(str), called once for each of them.

    Returns:
        `LabelledText`.

    Raises:
        DataError: for a source that does not exist, is empty, or has too much that is bad.
    """
    return open_source(
        spec,
        LABELLED_SOURCES,
        columns=columns or Columns(),
        tfds_dir=tfds_dir,
        max_bad=max_bad,
        warn=warn,
    )


def open_table(path, columns, max_bad, warn, **_):
    """A table of an example a line."""
    return read_labelled(path, columns, max_bad=max_bad, warn=warn)


def open_documents(path, max_bad, warn, **_):
    """Whole documents; the subfolders are the classes."""
    return read_documents(path, max_bad=max_bad, warn=warn)


def open_tfds(spec, columns, tfds_dir, max_bad, warn):
    """A dataset of tensorflow-datasets, `NAME[/CONFIG][:SPLIT]`; prepares it if need be."""
    return read_tfds(spec, columns, tfds_dir, max_bad=max_bad, warn=warn)


LABELLED_SOURCES = {"folder": open_documents, "table": open_table, "tfds": open_tfds}


def read_labelled(path, columns=Columns(), class_of=None, wanted=None, max_bad=0.01, warn=print):
    """Reads a table of an example a line.

    Columns stand between tabs, and quotation marks are text; in a file that ends in `.csv` they
    stand between commas, and quotation marks quote. Lines that have another number of columns
    than the first, or no label, are bad.

    Args:
        path: str.
        columns: `Columns`.
        class_of: optional dict, from what the label's column says to a class' name; without it
            that is the name. A line that says something else is bad.
        wanted: optional function of a line's list of str to whether the example is wanted.
        max_bad, warn: as `open_labelled`.

    Returns:
        `LabelledText`. Its classes are sorted, as numbers where all are whole numbers.

    Raises:
        DataError: where the file cannot be read, lacks a column, or has no or too many bad lines.
    """
    lines = _read_lines(path)
    header = _header(path, lines, columns)
    rows = lines[1:] if header else lines
    if not rows:
        raise DataError(f"data: {path} has no examples.")
    width = len(header or rows[0][1])
    places = [header.index(c) if isinstance(c, str) else c for c in columns.wanted]
    bad = BadExamples(path, len(rows), max_bad=max_bad, warn=warn)
    texts, labels = [], []
    for number, fields, problem in rows:
        if problem is None and len(fields) != width:
            problem = f"{len(fields)} columns where the first line has {width}"
        if problem is None and (wanted is None or wanted(fields)):
            sentence, label, *second = (fields[place] for place in places)
            label, problem = _label(label, columns, class_of)
            if problem is None:
                texts.append((sentence, *second))
                labels.append(label)
        if problem is not None:
            bad.report(f"{path}, line {number}", problem)
    return _labelled(path, texts, labels, columns)


def read_documents(folder, max_bad=0.01, warn=print):
    """Reads the `.txt` files of a folder's subfolders, which are the classes.

    As in pre-training, a document's lines are joined by spaces.

    Args:
        folder: str.
        max_bad, warn: as `open_labelled`; a file that is not UTF-8, or blank, is bad.

    Returns:
        `LabelledText`.

    Raises:
        DataError: where there is no such folder, or too many files are bad.
    """
    if not os.path.isdir(folder):
        raise DataError(f"data: folder:{folder} is not a folder. Check the path.")
    files = [
        (name, os.path.join(folder, name, file))
        for name in sorted(os.listdir(folder))
        if os.path.isdir(os.path.join(folder, name))
        for file in sorted(os.listdir(os.path.join(folder, name)))
        if file.endswith(DOCUMENT_ENDING)
    ]
    if not files:
        raise DataError(
            f"data: folder:{folder} has no documents: a subfolder of {DOCUMENT_ENDING} files for "
            "each class is needed. A table is read by table:FILE."
        )
    bad = BadExamples(f"folder:{folder}", len(files), max_bad=max_bad, warn=warn)
    texts, labels = [], []
    for name, path in files:
        text, problem = _read_document(path)
        if problem is not None:
            bad.report(path, problem)
        else:
            texts.append((text,))
            labels.append(name)
    return _labelled(f"folder:{folder}", texts, labels, Columns())


def read_tfds(spec, columns=Columns(), tfds_dir=None, max_bad=0.01, warn=print):
    """Reads a dataset of tensorflow-datasets.

    Args:
        spec: str. `NAME[/CONFIG][:SPLIT]`.
        columns: `Columns`, by the names of features.
        tfds_dir: optional str. Where TFDS keeps its datasets.
        max_bad, warn: as `open_labelled`; an example without a label is bad.

    Returns:
        `LabelledText`, its classes as the dataset numbers and names them.

    Raises:
        DataError: where there is no such dataset, split or feature, or it cannot be prepared.
    """
    builder, parts = open_builder(spec, tfds_dir)
    features = builder.info.features
    missing = [str(c) for c in columns.wanted if c not in features]
    if missing:
        raise DataError(
            f"data: tfds:{spec} has no feature {', '.join(missing)}; it has {', '.join(features)}."
        )
    if np.issubdtype(features[columns.label].np_dtype, np.floating) and not columns.regression:
        raise DataError(
            f"data: tfds:{spec} has numbers as {columns.label}, no classes: it is a regression."
        )
    source = RecordSource(f"tfds:{spec}", parts, features.deserialize_example)
    records = source.once().map(lambda record: source.load(record["candidates"][0]))
    records = records.map(lambda example: [example[c] for c in columns.wanted])
    bad = BadExamples(source.name, source.num_examples, max_bad=max_bad, warn=warn)
    names = getattr(features[columns.label], "names", None)  # of a ClassLabel
    texts, labels = [], []
    try:
        for batch in records.batch(READ_BATCH).as_numpy_iterator():
            for number, (sentence, label, *second) in enumerate(
                zip(*batch, strict=True), len(texts) + bad.count
            ):
                if names and label < 0:
                    bad.report(f"record {number}", "it has no label")
                    continue
                texts.append([text.decode("utf-8", "replace") for text in (sentence, *second)])
                labels.append(names[label] if names else label)
    except tf.errors.OpError as error:
        raise DataError(f"data: {source.name} is corrupt: {first_line(error)}.") from None
    labelled = _labelled(source.name, texts, labels, columns)
    return labelled.with_classes(tuple(names)) if names else labelled


def _read_lines(path):
    """A list of (line number, fields, `None`) or (line number, `None`, what is wrong with it)."""
    try:
        with open(path, "rb") as file:
            content = file.read().removeprefix(BYTE_ORDER_MARK)
    except OSError as error:
        raise DataError(f"data: {path} cannot be read ({error.strerror}).") from None
    if path.lower().endswith(".csv"):
        return _read_csv(path, content)
    lines = []
    for number, raw in enumerate(content.split(b"\n"), 1):
        raw = raw.rstrip(b"\r")
        try:
            line, problem = raw.decode("utf-8"), None
        except UnicodeDecodeError as error:
            line, problem = "", f"byte {error.start + 1} is not UTF-8"
        if raw:  # a file ends with a line end, so with an empty line
            lines.append((number, None if problem else line.split("\t"), problem))
    return lines


def _read_csv(path, content):
    try:
        reader = csv.reader(content.decode("utf-8").splitlines(keepends=True), strict=True)
        return [(reader.line_num, fields, None) for fields in reader if fields]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"data: {path} cannot be read as CSV ({error}).") from None


def _header(path, lines, columns):
    """The names of the columns, or `None` where all that are wanted are numbered."""
    by_name = [c for c in columns.wanted if isinstance(c, str)]
    header = (lines[0][1] or []) if lines and by_name else []
    missing = [name for name in by_name if name not in header]
    if missing:
        raise DataError(
            f"data: {path} needs columns {' and '.join(by_name)}, named in its first line. It has "
            f"{', '.join(header) or 'no line'}."
        )
    width = len(header) if by_name else len(lines[0][1] or []) if lines else 0
    beyond = [c for c in columns.wanted if not isinstance(c, str) and not 0 <= c < width]
    if lines and beyond:
        raise DataError(
            f"data: {path} has no column {beyond[0]}: its first line has {width}, counted from 0."
        )
    return header if by_name else None


def _label(value, columns, class_of):
    """(label, `None`), or (`None`, what is wrong with it)."""
    value = value.strip()
    if columns.regression:
        try:
            number = float(value)
        except ValueError:
            number = np.nan
        return (number, None) if np.isfinite(number) else (None, f"{value!r} is not a number")
    if not value:
        return None, "it has no label"
    if class_of is None:
        return value, None
    if value not in class_of:
        return None, f"label {value!r} is not one of {', '.join(class_of)}"
    return class_of[value], None


def _read_document(path):
    """(text, `None`), or (`None`, what is wrong with it)."""
    try:
        with open(path, "rb") as file:
            text = join_lines(file.read().removeprefix(BYTE_ORDER_MARK).decode("utf-8"))
    except OSError as error:
        return None, error.strerror
    except UnicodeDecodeError as error:
        return None, f"byte {error.start + 1} is not UTF-8"
    return (text, None) if text else (None, "it is blank")


def _labelled(name, texts, labels, columns):
    """`LabelledText` of tuples of one or two texts, and of class names or numbers."""
    if not texts:
        raise DataError(f"data: {name} has no examples.")
    sentences, *second = (list(column) for column in zip(*texts, strict=True))
    second = second[0] if second else None
    if columns.regression:
        return LabelledText(name, sentences, np.array(labels, "float32"), None, second)
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
    return LabelledText(name, sentences, numbers, class_names, second)
