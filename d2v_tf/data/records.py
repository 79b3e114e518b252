"""Sources that are read front to back: TFRecord files, of any origin or TFDS's."""

import dataclasses
import itertools
import os
import re
import struct
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from d2v_tf.data.lanes import read_epoch, read_part
from d2v_tf.data.reading import DataError

# How TFRecord files end, as we and TFDS name them, and how those of one set are numbered.
SHARD = re.compile(r"\.tfrecord(-\d+-of-\d+)?$")
NUMBER = re.compile(r"-\d+(-of-\d+)?$")
# A record is its length (8 bytes), that one's checksum (4), the content, and its checksum (4).
CHECKED_LENGTH = 12


@dataclasses.dataclass(frozen=True, eq=False)
class RecordSource:
    """Examples in TFRecord files.

    Attributes:
        name: str. As the user named it.
        parts: list of (file, skip, take): which records of which files.
        parse: function of a serialized record to `name`, `label` and `encoded`; runs in a graph.
        has_labels: bool.
        class_names: optional tuple of str, where the classes have names.
    """

    name: str
    parts: list[tuple[str, int, int]]
    parse: Callable
    has_labels: bool = False
    class_names: tuple[str, ...] | None = None

    @property
    def num_examples(self):
        """int. Records in all parts."""
        return sum(take for _, _, take in self.parts)

    def records(self, start, seed, shuffle=True, num_shards=1, shard=0):
        """The examples of positions `start`, `start + 1`, ... without end, undecoded.

        An epoch reads its files in an order drawn from (seed, epoch), up to 64 of them in turn,
        and each in blocks that are shuffled, 4,096 records in all. To start in the middle of one,
        and to read the positions of one worker of several, few other files are opened: `lanes.py`.

        Args and result: as `IndexedSource.records`; a candidate is a serialized record.
        """
        size, first = self.num_examples, start + shard
        first_epoch = start // size

        def epoch_records(epoch):
            in_first = tf.constant(first - first_epoch * size, tf.int64)
            later = (first - epoch * size) % num_shards
            place = tf.where(epoch == first_epoch, in_first, later)
            return read_epoch(self.parts, epoch, seed, place, num_shards, shuffle)

        epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int32).max)
        positions = tf.data.Dataset.range(first, np.iinfo(np.int64).max, num_shards)
        return tf.data.Dataset.zip(positions, epochs.flat_map(epoch_records)).map(_as_record)

    def once(self, keep=None):
        """Each example once, in order; records as `records` gives them, without replacements.

        Args:
            keep: optional bool array `[N]`, the examples wanted.
        """
        files, skips, takes = (tf.constant(column) for column in zip(*self.parts, strict=True))
        records = tf.data.Dataset.from_tensor_slices((files, skips, takes)).flat_map(read_part)
        records = records.enumerate()
        if keep is not None:
            wanted = tf.constant(keep)
            records = records.filter(lambda position, _: wanted[position])
        return records.map(lambda position, record: _as_record(position, record[None]))

    def only(self, keep):
        """What other sources have; records have no numbers by which they could be left out.

        Raises:
            DataError: always.
        """
        raise DataError(
            f"data: {self.name} is read front to back, and some of its examples alone cannot be "
            "trained on. Name examples that can be read in any order: folder:PATH, or for audio "
            "manifest:FILE or table:FILE too."
        )

    def load(self, record):
        """`name`, `label` and `encoded` of one serialized record; runs in a graph."""
        return self.parse(record)


def _as_record(position, candidates):
    return {"position": position, "candidates": candidates}


def record_files(pattern):
    """The files that a glob names, or the TFRecord files of a folder, sorted.

    Raises:
        DataError: where there is none.
    """
    if tf.io.gfile.isdir(pattern):
        names = sorted(name for name in tf.io.gfile.listdir(pattern) if SHARD.search(name))
        if not names:
            raise DataError(
                f"data: tfrecord:{pattern} is a folder without files named *.tfrecord or "
                f"*.tfrecord-*-of-*. Name them by a pattern: 'tfrecord:{pattern}/*'."
            )
        kinds = sorted({NUMBER.sub("", SHARD.sub("", name)) for name in names})
        if len(kinds) > 1:
            raise DataError(
                f"data: tfrecord:{pattern} is a folder of several sets: {', '.join(kinds)}. Name "
                f"one by a pattern: 'tfrecord:{pattern}/{kinds[0]}*'."
            )
        return [os.path.join(pattern, name) for name in names]
    files = sorted(tf.io.gfile.glob(pattern))
    if not files:
        raise DataError(f"data: tfrecord:{pattern} names no file. Check the pattern; quote it.")
    return files


def tfrecord_parts(pattern):
    """The parts of a `RecordSource`: all records of the files that a glob names.

    Raises:
        DataError: where there is no file or no record, or a file is corrupt.
    """
    files = record_files(pattern)
    parts = [(file, 0, count_records(file)) for file in files]
    if not sum(take for _, _, take in parts):
        raise DataError(f"data: tfrecord:{pattern} has no records in its {len(files)} files.")
    return parts


def count_records(path):
    """Counts the records of a TFRecord file by its length fields, without reading the records.

    Raises:
        DataError: where the file ends inside a record.
    """
    ends = list(_record_ends(path))
    if ends and ends[-1] > tf.io.gfile.stat(path).length:
        raise DataError(
            f"data: {path} is corrupt: it ends inside record {len(ends) - 1}, or is no TFRecord "
            "file. Write it anew or leave it out."
        )
    return len(ends)


def has_record_at(path, start):
    """Whether a record of a file begins at this byte, by the lengths of those before it."""
    starts = itertools.chain([0], _record_ends(path))
    return start in itertools.takewhile(lambda place: place <= start, starts)


def _record_ends(path):
    """Where each record of a file ends; the last of a broken file ends behind the file."""
    size, position = tf.io.gfile.stat(path).length, 0
    with tf.io.gfile.GFile(path, "rb") as file:
        while position < size:
            file.seek(position)
            header = file.read(8)
            length = struct.unpack("<Q", header)[0] if len(header) == 8 else size
            position += CHECKED_LENGTH + length + 4
            yield position
