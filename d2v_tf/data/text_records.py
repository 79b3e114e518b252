"""Text in the TFRecord files of TFDS's datasets, a document a record."""

import dataclasses

import tensorflow as tf

from d2v_tf.data.documents import REPLACEMENT, Piece, join_lines
from d2v_tf.data.reading import DataError, first_line
from d2v_tf.data.tfds import open_builder


@dataclasses.dataclass(frozen=True)
class RecordSegment:
    """A part of a TFRecord file.

    Attributes:
        path: str.
        skip, take: ints. Which of its records.
        feature: str. The name of the text.
    """

    path: str
    skip: int
    take: int
    feature: str


def plan_tfds(spec, tfds_dir=None):
    """The parts of a dataset of tensorflow-datasets, `NAME[/CONFIG][:SPLIT]`.

    Its text is the feature `text`, or the only one that is a string.

    Returns:
        A list of lists of one `RecordSegment`, one for each file.
    """
    builder, parts = open_builder(spec, tfds_dir)
    features = builder.info.features
    strings = [n for n, f in features.items() if f.shape == () and f.tf_dtype == tf.string]
    if "text" in strings:
        strings = ["text"]
    if len(strings) != 1:
        raise DataError(
            f"data: tfds:{spec} has no feature 'text', and {len(strings) or 'none'} that are "
            f"strings; it has {', '.join(sorted(features))}."
        )
    return [[RecordSegment(*part, strings[0])] for part in parts]


def read_records(segment):
    """The documents of a `RecordSegment`, as `read_pieces` gives those of a text file.

    Yields:
        `Piece`, a whole document each.

    Raises:
        DataError: where the file cannot be read.
    """
    records = tf.data.TFRecordDataset(segment.path).skip(segment.skip).take(segment.take)
    try:
        for record in records.as_numpy_iterator():
            feature = tf.train.Example.FromString(record).features.feature[segment.feature]
            raw = feature.bytes_list.value[0]
            text = raw.decode("utf-8", "replace")
            invalid = text.count(REPLACEMENT) - raw.count(REPLACEMENT.encode())
            if text.strip():
                yield Piece(join_lines(text), True, invalid)
    except tf.errors.OpError as error:
        raise DataError(
            f"data: {segment.path} cannot be read ({first_line(error)}). Prepare the dataset anew."
        ) from None
