"""Tables that say which audio file is of which class, or has which tags."""

import csv
import dataclasses
import os

import numpy as np

from d2v_tf.data.reading import DataError

# What the columns may be called; the first that is there is taken.
COLUMNS = {
    "path": ("path", "filename", "file"),
    "class": ("class", "label", "category"),
    "tags": ("tags", "labels"),
}
# Files that are looked for before a wrong folder is suspected.
NUM_CHECKED = 16


@dataclasses.dataclass(frozen=True)
class Table:
    """What a table says of N files.

    Attributes:
        paths: list of N str.
        labels: optional int64 array `[N]`, -1 where the class is empty.
        class_names: optional tuple of str.
        tags: optional bool array `[N, C]`.
        tag_names: optional tuple of C str.
    """

    paths: list[str]
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    tags: np.ndarray | None = None
    tag_names: tuple[str, ...] | None = None


def read_table(spec):
    """Reads a table of audio files.

    Its first line names the columns, which tabs separate, or commas (then with quotes around what
    has commas itself). One is the `path`, seen from the table's folder; one the `class`, or the
    `tags`, with commas between several. Classes and tags are numbered in the order of their names.

    Args:
        spec: str, `FILE[?KEY=VALUE[&KEY=VALUE...]]`. `path`, `class` and `tags` name the columns
            where they are called otherwise; `root` is the folder of the files, seen from the
            table's; any other key is a column, of which only rows with one of the values, with
            commas between them, are taken: `labels.tsv?fold=1,2,3`.

    Returns:
        `Table`.

    Raises:
        DataError: where the table cannot be read, or lacks a column or rows.
    """
    path, options = _split(spec)
    lines, delimiter = _read(path)
    header, rows = [name.strip() for name in lines[0][1]], lines[1:]
    root = options.pop("root", ".")
    places = {key: _column(path, header, key, options.pop(key, None)) for key in COLUMNS}
    if places["path"] is None:
        raise DataError(
            f"data: table:{path} has no column 'path'; its first line names {', '.join(header)}. "
            f"Name the column of the files: 'table:{path}?path=COLUMN'."
        )
    if places["class"] is None and places["tags"] is None:
        raise DataError(
            f"data: table:{path} has no column 'class' or 'tags'; its first line names "
            f"{', '.join(header)}. Name it: 'table:{path}?class=COLUMN', or ?tags=COLUMN where a "
            "file may have several."
        )
    for number, cells in rows:
        if len(cells) != len(header):
            kind = "tabs" if delimiter == "\t" else "commas"
            raise DataError(
                f"data: table:{path}, line {number} has {len(cells)} cells for {len(header)} "
                f"columns, between {kind}."
            )
    rows = _filter(path, header, rows, options)
    files = _files(path, root, [(number, cells[places["path"]].strip()) for number, cells in rows])
    table = Table(files)
    if places["class"] is not None:
        values = [cells[places["class"]].strip() for _, cells in rows]
        names = tuple(sorted(set(values) - {""}))
        number_of = {name: i for i, name in enumerate(names)} | {"": -1}
        labels = np.array([number_of[value] for value in values], "int64")
        table = dataclasses.replace(table, labels=labels, class_names=names)
    if places["tags"] is not None:
        values = [_tags(cells[places["tags"]]) for _, cells in rows]
        names = tuple(sorted(set().union(*values)))
        number_of = {name: i for i, name in enumerate(names)}
        tags = np.zeros((len(rows), len(names)), bool)
        for row, value in zip(tags, values, strict=True):
            row[[number_of[name] for name in value]] = True
        table = dataclasses.replace(table, tags=tags, tag_names=names)
    return table


def _split(spec):
    """The path and the options of `FILE?KEY=VALUE&KEY=VALUE`."""
    if os.path.isfile(spec) or "?" not in spec:
        return spec, {}
    path, _, query = spec.rpartition("?")
    options = {}
    for part in query.split("&"):
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise DataError(
                f"data: table:{spec} has {part!r} behind its question mark, which must be "
                "COLUMN=VALUE, with & between several."
            )
        options[key] = value
    return path, options


def _read(path):
    """A list of (number of the line, cells), and what separates the cells."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            delimiter = "\t" if "\t" in first else ","
            # A quotation mark between tabs is text; between commas it may hold commas.
            quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
            reader = csv.reader(
                file, delimiter=delimiter, quoting=quoting, skipinitialspace=delimiter == ","
            )
            lines = [(reader.line_num, cells) for cells in reader if any(cells)]
    except OSError as error:
        raise DataError(f"data: table:{path} cannot be read ({error.strerror}).") from None
    except (UnicodeDecodeError, csv.Error):
        raise DataError(f"data: table:{path} is not a table of text.") from None
    if not lines:
        raise DataError(
            f"data: table:{path} is empty. Its first line names the columns, path and class or "
            "tags; the others are a file each."
        )
    return lines, delimiter


def _column(path, header, key, wanted):
    """The place of a column, by the name that the user gave or a usual one; `None` without."""
    if wanted is not None and wanted not in header:
        raise DataError(
            f"data: table:{path} has no column {wanted!r} ({key}={wanted}); its first line names "
            f"{', '.join(header)}."
        )
    names = COLUMNS[key] if wanted is None else (wanted,)
    return next((header.index(name) for name in names if name in header), None)


def _filter(path, header, rows, options):
    for key, wanted in options.items():
        if key not in header:
            raise DataError(
                f"data: table:{path} has no column {key!r} to choose by; its first line names "
                f"{', '.join(header)}."
            )
        place, values = header.index(key), [value.strip() for value in wanted.split(",")]
        there = {cells[place].strip() for _, cells in rows}
        absent = [value for value in values if value not in there]
        if absent:
            raise DataError(
                f"data: table:{path} has no row with {key}={absent[0]}; there is "
                f"{', '.join(sorted(there)[:10])}."
            )
        rows = [row for row in rows if row[1][place].strip() in values]
    if not rows:
        raise DataError(f"data: table:{path} names no files below its first line.")
    return rows


def _files(path, root, rows):
    """The paths of the files, of rows (number of the line, path)."""
    folder = os.path.join(os.path.dirname(os.path.abspath(path)), root)
    files, seen = [], {}
    for number, name in rows:
        files.append(os.path.normpath(os.path.join(folder, name)))
        if files[-1] in seen:
            raise DataError(
                f"data: table:{path} names {name} in line {seen[files[-1]]} and in line {number}. "
                "A file has one line; several tags go into one cell, with commas between."
            )
        seen[files[-1]] = number
    if not any(os.path.isfile(file) for file in files[:NUM_CHECKED]):
        raise DataError(
            f"data: table:{path} names {rows[0][1]} first, and there is no {files[0]}. Paths are "
            f"seen from the table's folder, or from another: 'table:{path}?root=FOLDER'."
        )
    return files


def _tags(cell):
    return {tag.strip() for tag in cell.split(",")} - {""}
