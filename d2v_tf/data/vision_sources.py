"""Where images come from: a function and a line in `VISION_SOURCES` each."""

import os

import numpy as np

from d2v_tf.data.indexed import IndexedSource
from d2v_tf.data.reading import DataError
from d2v_tf.data.sources import open_source
from d2v_tf.data.vision_records import open_tfds, open_tfrecord

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
# Of the 1,797 embedded digits, every fifth is for testing.
TEST_EVERY = 5


def open_builtin(split, tfds_dir=None):
    """scikit-learn's handwritten digits: 1,797 real images of 8 x 8 pixels, with labels."""
    from sklearn.datasets import load_digits  # slow to import, for this source only

    if split not in ("", "train", "test"):
        raise DataError(f"data: builtin has the splits train and test. Received: {split!r}")
    digits = load_digits()
    is_test = np.arange(len(digits.target)) % TEST_EVERY == TEST_EVERY - 1
    chosen = np.flatnonzero(is_test if split == "test" else ~is_test)
    images = np.round(digits.images[chosen, :, :, None] * (255 / 16)).astype("uint8")
    return IndexedSource(
        name="builtin (scikit-learn's digits)",
        names=[f"digit {i}" for i in chosen],
        labels=digits.target[chosen].astype("int64"),
        class_names=tuple("0123456789"),
        images=images,
    )


def open_folder(path, tfds_dir=None):
    """The images below a folder; its subfolders are the classes if every image is in one."""
    if not os.path.isdir(path):
        raise DataError(f"data: folder:{path} is not a folder. Check the path.")
    files, num_seen = [], 0
    for folder, subfolders, names in os.walk(path, followlinks=True):
        subfolders.sort()
        num_seen += len(names)
        files += [os.path.join(folder, n) for n in names if n.lower().endswith(IMAGE_ENDINGS)]
    if not files:
        raise DataError(
            f"data: folder:{path} has no images: {num_seen} files were seen, none of them ends in "
            f"{' '.join(IMAGE_ENDINGS)}."
        )
    files.sort()
    parts = [os.path.relpath(file, path).split(os.sep) for file in files]
    class_names, labels = None, np.full(len(files), -1, "int64")
    if all(len(p) > 1 for p in parts):
        class_names = tuple(sorted({p[0] for p in parts}))
        number = {name: i for i, name in enumerate(class_names)}
        labels = np.array([number[p[0]] for p in parts], "int64")
    return IndexedSource(f"folder:{path}", files, labels, class_names)


VISION_SOURCES = {
    "builtin": open_builtin,
    "folder": open_folder,
    "tfds": open_tfds,
    "tfrecord": open_tfrecord,
}


def open_images(spec, tfds_dir=None):
    """Opens the images that a `SOURCE` string names.

    Args:
        spec: str. `builtin[:train|test]`, `folder:PATH`, `tfds:NAME[/CONFIG][:SPLIT]` or
            `tfrecord:GLOB`.
        tfds_dir: optional str. Where TFDS keeps its datasets; its own default otherwise.

    Raises:
        DataError: for a source that does not exist, is empty or cannot be read.
    """
    return open_source(spec, VISION_SOURCES, tfds_dir=tfds_dir)
