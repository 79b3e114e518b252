"""Images in TFRecord files, of any origin or TFDS's."""

import dataclasses

import tensorflow as tf

from d2v_tf.data.reading import DataError
from d2v_tf.data.records import RecordSource, tfrecord_parts
from d2v_tf.data.tfds import open_builder


def open_tfrecord(pattern, tfds_dir=None):
    """TFRecord files of `tf.train.Example`s that a glob names.

    An example holds the encoded image under `image/encoded` or `image`, and may hold its class
    under `image/class/label` or `label` and its name under `image/filename`.
    """
    source = RecordSource(f"tfrecord:{pattern}", tfrecord_parts(pattern), _parse_example)
    first = next(iter(source.once()))["candidates"][0]
    return dataclasses.replace(source, has_labels=int(_parse_example(first)["label"]) >= 0)


def _parse_example(record):
    features = tf.io.parse_single_example(
        record,
        {
            "image/encoded": tf.io.FixedLenFeature([], tf.string, ""),
            "image": tf.io.FixedLenFeature([], tf.string, ""),
            "image/class/label": tf.io.FixedLenFeature([], tf.int64, -1),
            "label": tf.io.FixedLenFeature([], tf.int64, -1),
            "image/filename": tf.io.FixedLenFeature([], tf.string, "a record without a name"),
        },
    )
    encoded = tf.strings.join([features["image/encoded"], features["image"]])
    label = tf.maximum(features["image/class/label"], features["label"])
    return {"name": features["image/filename"], "label": label, "encoded": encoded}


def open_tfds(spec, tfds_dir=None):
    """A dataset of tensorflow-datasets, `NAME[/CONFIG][:SPLIT]`; prepares it if need be."""
    import tensorflow_datasets as tfds  # slow to import, for this source only

    builder, parts = open_builder(spec, tfds_dir)
    features = builder.info.features
    if "image" not in features:
        raise DataError(f"data: tfds:{spec} has no feature 'image'; it has {', '.join(features)}.")
    decoders = {"image": tfds.decode.SkipDecoding()}
    label = features["label"] if "label" in features else None
    has_classes = isinstance(label, tfds.features.ClassLabel)

    def parse(record):
        example = features.deserialize_example(record, decoders=decoders)
        return {
            "name": tf.constant(f"a record of tfds:{spec}"),
            "label": example["label"] if has_classes else tf.constant(-1, tf.int64),
            "encoded": example["image"],
        }

    return RecordSource(
        f"tfds:{spec}",
        parts,
        parse,
        has_labels=has_classes,
        class_names=tuple(label.names) if has_classes else None,
    )
