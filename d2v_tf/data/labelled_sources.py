"""Texts with classes or scores, or with none: tables, documents, and TFDS, read whole."""

import csv
import os

import numpy as np
import tensorflow as tf

from d2v_tf.data.documents import BYTE_ORDER_MARK, join_lines
from d2v_tf.data.labelled_text import Columns, as_labelled
from d2v_tf.data.reading import BadExamples, DataError, first_line
from d2v_tf.data.records import RecordSource
from d2v_tf.data.sources import open_source
from d2v_tf.data.tfds import open_builder

DOCUMENT_ENDING = ".txt"
READ_BATCH = 1024


def open_labelled(spec, columns=None, tfds_dir=None, max_bad=0.01, warn=print):
    """Reads the labelled texts that a `SOURCE` string names.

    Args:
        spec: str. `table:FILE`, tab-separated, or comma-separated if it ends in `.csv`;
            `folder:DIR`, a folder of `.txt` files a class; or `tfds:NAME[/CONFIG][:SPLIT]`. Where
            no label is read, also `text:FILE`, a text a line.
        columns: optional `Columns`, of a table or of TFDS' features. Where they have no label, a
            folder's documents need not be in folders of classes.
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


def open_documents(path, columns, max_bad, warn, **_):
    """Whole documents; the subfolders are the classes."""
    return read_documents(path, columns.label is not None, max_bad=max_bad, warn=warn)


def open_lines(path, columns, max_bad, warn, **_):
    """A text a line, without labels."""
    if columns.label is not None:
        raise DataError(
            f"data: text:{path} has no labels, and some are needed here. Name table:FILE, or "
            "folder:DIR with a folder of documents for each class."
        )
    return read_lines(path, max_bad=max_bad, warn=warn)


def open_tfds(spec, columns, tfds_dir, max_bad, warn):
    """A dataset of tensorflow-datasets, `NAME[/CONFIG][:SPLIT]`; prepares it if need be."""
    return read_tfds(spec, columns, tfds_dir, max_bad=max_bad, warn=warn)


LABELLED_SOURCES = {
    "folder": open_documents,
    "table": open_table,
    "text": open_lines,
    "tfds": open_tfds,
}


def read_labelled(path, columns=None, class_of=None, wanted=None, max_bad=0.01, warn=print):
    """Reads a table of an example a line.

    Columns stand between tabs, and quotation marks are text; in a file that ends in `.csv` they
    stand between commas, and quotation marks quote. Lines that have another number of columns
    than the first, or no label, are bad.

    Args:
        path: str.
        columns: optional `Columns`.
        class_of: optional dict, from what the label's column says to a class' name; without it
            that is the name. A line that says something else is bad.
        wanted: optional function of a line's list of str to whether the example is wanted.
        max_bad, warn: as `open_labelled`.

    Returns:
        `LabelledText`. Its classes are sorted, as numbers where all are whole numbers.

    Raises:
        DataError: where the file cannot be read, lacks a column, or has no or too many bad lines.
    """
    columns = columns or Columns()
    lines = _read_lines(path)
    header = _header(path, lines, columns)
    rows = lines[1:] if header else lines
    if not rows:
        raise DataError(f"data: {path} has no examples.")
    width = len(header or rows[0][1])
    place = {c: header.index(c) if isinstance(c, str) else c for c in columns.wanted}
    bad = BadExamples(path, len(rows), max_bad=max_bad, warn=warn)
    texts, labels, places = [], [], []
    for number, fields, problem in rows:
        if problem is None and len(fields) != width:
            problem = f"{len(fields)} columns where the first line has {width}"
        if problem is None and (wanted is None or wanted(fields)):
            label = None
            if columns.label is not None:
                label, problem = _label(fields[place[columns.label]], columns, class_of)
            if problem is None:
                texts.append(tuple(fields[place[c]] for c in columns.texts))
                labels.append(label)
                places.append(f"{path}, line {number}")
        if problem is not None:
            bad.report(f"{path}, line {number}", problem)
    return as_labelled(path, texts, labels, columns, places)


def read_lines(path, max_bad=0.01, warn=print):
    """Reads a text a line, whatever stands in it; blank lines are left out.

    Args:
        path: str.
        max_bad, warn: as `open_labelled`; a line that is not UTF-8 is bad.

    Returns:
        `LabelledText` without labels.

    Raises:
        DataError: where the file cannot be read, or has no or too many bad lines.
    """
    lines = _lines_of(_read_file(path))
    bad = BadExamples(f"text:{path}", max(len(lines), 1), max_bad=max_bad, warn=warn)
    texts, places = [], []
    for number, line, problem in lines:
        if problem is not None:
            bad.report(f"{path}, line {number}", problem)
        elif line.strip():
            texts.append((line,))
            places.append(f"{path}, line {number}")
    return as_labelled(f"text:{path}", texts, [], Columns(label=None), places)


def read_documents(folder, labelled=True, max_bad=0.01, warn=print):
    """Reads the `.txt` files of a folder's subfolders, which are the classes.

    As in pre-training, a document's lines are joined by spaces.

    Args:
        folder: str.
        labelled: bool. Otherwise no classes are read, and documents may be anywhere below it.
        max_bad, warn: as `open_labelled`; a file that is not UTF-8, or blank, is bad.

    Returns:
        `LabelledText`.

    Raises:
        DataError: where there is no such folder, or too many files are bad.
    """
    if not os.path.isdir(folder):
        raise DataError(f"data: folder:{folder} is not a folder. Check the path.")
    files = _documents_of_classes(folder) if labelled else _documents_below(folder)
    if not files:
        wanted = f"a subfolder of {DOCUMENT_ENDING} files for each class is needed"
        if not labelled:
            wanted = f"files that end in {DOCUMENT_ENDING} are needed"
        raise DataError(
            f"data: folder:{folder} has no documents: {wanted}. A table is read by table:FILE."
        )
    bad = BadExamples(f"folder:{folder}", len(files), max_bad=max_bad, warn=warn)
    texts, labels, places = [], [], []
    for name, path in files:
        text, problem = _read_document(path)
        if problem is not None:
            bad.report(path, problem)
        else:
            texts.append((text,))
            labels.append(name)
            places.append(path)
    columns = Columns() if labelled else Columns(label=None)
    return as_labelled(f"folder:{folder}", texts, labels, columns, places)


def read_tfds(spec, columns=None, tfds_dir=None, max_bad=0.01, warn=print):
    """Reads a dataset of tensorflow-datasets.

    Args:
        spec: str. `NAME[/CONFIG][:SPLIT]`.
        columns: optional `Columns`, by the names of features.
        tfds_dir: optional str. Where TFDS keeps its datasets.
        max_bad, warn: as `open_labelled`; an example without a label is bad.

    Returns:
        `LabelledText`, its classes as the dataset numbers and names them.

    Raises:
        DataError: where there is no such dataset, split or feature, or it cannot be prepared.
    """
    columns = columns or Columns()
    builder, parts = open_builder(spec, tfds_dir)
    features = builder.info.features
    missing = [str(c) for c in columns.wanted if c not in features]
    if missing:
        raise DataError(
            f"data: tfds:{spec} has no feature {', '.join(missing)}; it has {', '.join(features)}."
        )
    label_feature = None if columns.label is None else features[columns.label]
    if np.issubdtype(getattr(label_feature, "np_dtype", int), np.floating) and (
        not columns.regression
    ):
        raise DataError(
            f"data: tfds:{spec} has numbers as {columns.label}, no classes: it is a regression."
        )
    source = RecordSource(f"tfds:{spec}", parts, features.deserialize_example)
    records = source.once().map(lambda record: source.load(record["candidates"][0]))
    records = records.map(lambda example: [example[c] for c in columns.wanted])
    bad = BadExamples(source.name, source.num_examples, max_bad=max_bad, warn=warn)
    names = getattr(label_feature, "names", None)  # of a ClassLabel
    texts, labels, places = [], [], []
    try:
        for batch in records.batch(READ_BATCH).as_numpy_iterator():
            for number, row in enumerate(zip(*batch, strict=True), len(texts) + bad.count):
                label = row[-1]  # where one is read
                if names and label < 0:
                    bad.report(f"record {number}", "it has no label")
                    continue
                row = row[: len(columns.texts)]
                texts.append([text.decode("utf-8", "replace") for text in row])
                labels.append(names[label] if names else label)
                places.append(f"{source.name}, record {number}")
    except tf.errors.OpError as error:
        raise DataError(f"data: {source.name} is corrupt: {first_line(error)}.") from None
    labelled = as_labelled(source.name, texts, labels, columns, places)
    return labelled.with_classes(tuple(names)) if names else labelled


def _documents_of_classes(folder):
    """A list of (class, path): the documents in each subfolder."""
    return [
        (name, os.path.join(folder, name, file))
        for name in sorted(os.listdir(folder))
        if os.path.isdir(os.path.join(folder, name))
        for file in sorted(os.listdir(os.path.join(folder, name)))
        if file.endswith(DOCUMENT_ENDING)
    ]


def _documents_below(folder):
    """A list of (`None`, path): the documents anywhere below a folder."""
    paths = [
        os.path.join(parent, file)
        for parent, _, files in os.walk(folder, followlinks=True)
        for file in files
        if file.endswith(DOCUMENT_ENDING)
    ]
    return [(None, path) for path in sorted(paths)]


def _read_lines(path):
    """A list of (line number, fields, `None`) or (line number, `None`, what is wrong with it)."""
    content = _read_file(path)
    if path.lower().endswith(".csv"):
        return _read_csv(path, content)
    return [
        (number, None if problem else line.split("\t"), problem)
        for number, line, problem in _lines_of(content)
    ]


def _read_file(path):
    try:
        with open(path, "rb") as file:
            return file.read().removeprefix(BYTE_ORDER_MARK)
    except OSError as error:
        raise DataError(f"data: {path} cannot be read ({error.strerror}).") from None


def _lines_of(content):
    """A list of (line number, text, `None`) or (line number, `""`, what is wrong with it)."""
    lines = []
    for number, raw in enumerate(content.split(b"\n"), 1):
        raw = raw.rstrip(b"\r")
        try:
            line, problem = raw.decode("utf-8"), None
        except UnicodeDecodeError as error:
            line, problem = "", f"byte {error.start + 1} is not UTF-8"
        if raw:  # a file ends with a line end, so with an empty line
            lines.append((number, line, problem))
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
