"""Sources whose examples can be read in any order: files and arrays."""

import dataclasses

import numpy as np
import tensorflow as tf

# An example that cannot be read is replaced by the first readable one of seven drawn at random.
NUM_REPLACEMENTS = 7
# With the 4 of tf.random.experimental.index_shuffle, successive epochs of 45,000 examples have
# orders that correlate by 0.06 (0.68 with seeds [seed, epoch]); from 8 on by 0.004, by chance.
SHUFFLE_ROUNDS = 16


def shuffled(index, epoch, seed, num_examples):
    """The example at a place of an epoch: every epoch has each once, in an order of its own.

    Args:
        index: int64 scalar or `[B]`. The place, in [0, num_examples).
        epoch: int64 scalar.
        seed: int.
        num_examples: int.

    Returns:
        int64 in [0, num_examples), of the index' shape.
    """
    # Neighboring keys give neighboring orders, so the key is drawn.
    key = tf.random.stateless_uniform(
        [3], tf.stack([tf.constant(seed, tf.int64), epoch]), None, None, tf.int64
    )
    last = tf.constant(num_examples - 1, tf.int64)
    return tf.raw_ops.RandomIndexShuffle(
        index=index, seed=key, max_index=last, rounds=SHUFFLE_ROUNDS
    )


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

    @property
    def has_labels(self):
        """bool."""
        return self.class_names is not None

    def records(self, start, seed, shuffle=True, num_shards=1, shard=0):
        """The examples of positions `start`, `start + 1`, ... without end, unread.

        Position k is in epoch `k // N`; every epoch has every example once, in an order of its
        own. Any position is found without reading what is before it, so a run resumes at once.

        Args:
            start: int. First position.
            seed: int.
            shuffle: bool. Whether an epoch's order is drawn from (seed, epoch).
            num_shards, shard: ints. Every num_shards-th position, from `start + shard` on.

        Returns:
            A dataset of `{"position": int64, "candidates": int64 [1 + NUM_REPLACEMENTS]}`, for
            `reading.read_examples`.
        """
        num_examples = self.num_examples

        def candidates(position):
            epoch, index = position // num_examples, position % num_examples
            if shuffle:
                index = shuffled(index, epoch, seed, num_examples)
            replacements = tf.random.stateless_uniform(
                [NUM_REPLACEMENTS],
                seed=tf.stack([tf.constant(seed, tf.int64), position]),
                maxval=num_examples,
                dtype=tf.int64,
            )
            index = tf.cast(index, tf.int64)
            return {
                "position": position,
                "candidates": tf.concat([index[None], replacements], axis=0),
            }

        positions = tf.data.Dataset.range(start, np.iinfo(np.int64).max)
        return positions.shard(num_shards, shard).map(candidates)

    def once(self, keep=None):
        """Each example once, in order; records as `records` gives them, without replacements.

        Args:
            keep: optional bool array `[N]`, the examples wanted.
        """
        indices = np.arange(self.num_examples) if keep is None else np.flatnonzero(keep)
        return tf.data.Dataset.from_tensor_slices(indices.astype("int64")).map(
            lambda i: {"position": i, "candidates": i[None]}
        )

    def only(self, keep):
        """The source of these examples alone, numbered anew; classes keep their numbers.

        Args:
            keep: bool array `[N]`.
        """
        chosen = np.flatnonzero(keep)
        return dataclasses.replace(
            self,
            name=f"{self.name} ({len(chosen):,} of its {self.num_examples:,} examples)",
            names=[self.names[i] for i in chosen],
            labels=self.labels[chosen],
            images=None if self.images is None else self.images[chosen],
        )

    def load(self, index):
        """`name`, `label`, and `image` or `encoded` of one example; runs in a graph."""
        example = {"name": self._names[index], "label": self._labels[index]}
        if self.images is not None:
            return {**example, "image": self._images[index]}
        return {**example, "encoded": tf.io.read_file(example["name"])}

    def __post_init__(self):
        object.__setattr__(self, "_names", tf.constant(self.names))
        object.__setattr__(self, "_labels", tf.constant(self.labels, tf.int64))
        if self.images is not None:
            object.__setattr__(self, "_images", tf.constant(self.images))
