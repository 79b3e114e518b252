"""Where examples come from: a function and a line in `SCHEMES` each."""

import dataclasses
import difflib
import os

import numpy as np
import tensorflow as tf

from d2v_tf.data.reading import DataError, replacement_indices

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
# Of the 1,797 embedded digits, every fifth is for testing.
TEST_EVERY = 5


@dataclasses.dataclass(frozen=True, eq=False)
class IndexedSource:
    """Examples that can be read in any order.

    Attributes:
        name: str. As the user named it.
        names: list of N str, for messages; the paths of files.
        labels: int64 array `[N]`, -1 where there is none.
        class_names: tuple of str, or `None` where there are no labels.
        images: optional uint8 array `[N, H, W, C]`; without it the names are files.
    """

    name: str
    names: list[str]
    labels: np.ndarray
    class_names: tuple[str, ...] | None = None
    images: np.ndarray | None = None

    @property
    def num_examples(self):
        """int. N."""
        return len(self.names)

    def records(self, start, seed, shuffle=True, num_shards=1, shard=0):
        """The examples of positions `start`, `start + 1`, ... without end, unread.

        Position k is in epoch `k // N`; every epoch has every example once, in an order of its
        own. Any position is found without reading what is before it, so a run resumes at once.

        Args:
            start: int. First position.
            seed: int.
            shuffle: bool. Whether an epoch's order is drawn from (seed, epoch).
            num_shards, shard: ints. Positions p with `p % num_shards == shard` only.

        Returns:
            A dataset of (position, dataset of records to try one after the other).
        """
        positions = tf.data.Dataset.range(start, np.iinfo(np.int64).max)
        positions = positions.shard(num_shards, shard)
        read = self._reader()

        def candidates(position):
            epoch, index = position // self.num_examples, position % self.num_examples
            if shuffle:
                order = tf.stack([tf.constant(seed), tf.cast(epoch, tf.int32)])
                index = tf.random.experimental.index_shuffle(index, order, self.num_examples - 1)
            tried = replacement_indices(index, position, seed, self.num_examples)
            return position, tf.data.Dataset.from_tensor_slices(tried).map(read)

        return positions.map(candidates)

    def once(self, keep=None):
        """Each example once, in order, as (position, dataset of the one record).

        Args:
            keep: optional bool array `[N]`, the examples wanted.
        """
        indices = np.arange(self.num_examples) if keep is None else np.flatnonzero(keep)
        read = self._reader()
        return tf.data.Dataset.from_tensor_slices(indices.astype("int64")).map(
            lambda i: (i, tf.data.Dataset.from_tensors(i).map(read))
        )

    def _reader(self):
        names, labels = tf.constant(self.names), tf.constant(self.labels, tf.int64)
        images = None if self.images is None else tf.constant(self.images)

        def read(index):
            record = {"name": names[index], "label": labels[index]}
            if images is not None:
                return {**record, "image": images[index]}
            return {**record, "encoded": tf.io.read_file(names[index])}

        return read


def open_source(spec, tfds_dir=None):
    """Opens the source that a `SOURCE` string names.

    Args:
        spec: str. `builtin[:train|test]` or `folder:PATH`.
        tfds_dir: optional str. Where TFDS keeps its datasets.

    Raises:
        DataError: for a source that does not exist, is empty or cannot be read.
    """
    scheme, _, rest = spec.partition(":")
    if scheme not in SCHEMES:
        near = difflib.get_close_matches(scheme, SCHEMES, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise DataError(
            f"data: {spec!r} is not a source; it must start with one of {', '.join(SCHEMES)}.{hint}"
        )
    return SCHEMES[scheme](rest)


def open_builtin(split):
    """scikit-learn's handwritten digits: 1,797 real images of 8 x 8 pixels, with labels."""
    from sklearn.datasets import load_digits

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


def open_folder(path):
    """The images below a folder; its subfolders are the classes if every image is in one."""
    if not os.path.isdir(path):
        raise DataError(f"data: folder:{path} is not a folder. Check the path.")
    files, seen = [], 0
    for folder, subfolders, names in os.walk(path, followlinks=True):
        subfolders.sort()
        seen += len(names)
        files += [os.path.join(folder, n) for n in names if n.lower().endswith(IMAGE_ENDINGS)]
    if not files:
        raise DataError(
            f"data: folder:{path} has no images: {seen} files were seen, none of them ends in "
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


SCHEMES = {"builtin": open_builtin, "folder": open_folder}
