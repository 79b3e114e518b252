"""Datasets of tensorflow-datasets, as the files of a `RecordSource`."""

from d2v_tf.data.reading import DataError, first_line


def open_builder(spec, data_dir=None):
    """A prepared dataset of tensorflow-datasets, `NAME[/CONFIG][:SPLIT]`.

    Returns:
        The builder, and the parts of its files as `RecordSource` takes them.

    Raises:
        DataError: where there is no such dataset or split, or it cannot be prepared.
    """
    import tensorflow_datasets as tfds  # slow to import, for this source only

    name, _, split = spec.partition(":")
    split = split or "train"
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise DataError(f"data: tfds:{name} is not a dataset: {first_line(error)}") from None
    if not builder.data_path.exists():
        _prepare(builder, name)
    if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
        raise DataError(
            f"data: tfds:{name} is stored as {builder.info.file_format.value}; only tfrecord is "
            "read. Prepare it with file_format='tfrecord'."
        )
    try:
        instructions = builder.info.splits[split].file_instructions
    except (KeyError, ValueError):
        raise DataError(
            f"data: tfds:{name} has no split {split!r}; it has {', '.join(builder.info.splits)}."
        ) from None
    return builder, [(str(i.filename), i.skip, i.take) for i in instructions]


def _prepare(builder, name):
    try:
        builder.download_and_prepare()
    except Exception as error:  # whatever a dataset's own download code raises
        raise DataError(
            f"data: tfds:{name} is not prepared under {builder.data_dir} and could not be: "
            f"{first_line(error)}. Prepare it with `tfds build`, or name its folder: --set "
            "data.tfds_dir=FOLDER (tools/prepare.py: --tfds_dir=FOLDER)."
        ) from error
