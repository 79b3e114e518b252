"""Batches of examples of about equal length: a plan of every epoch, from (seed, epoch) alone."""

import dataclasses
import threading

import numpy as np

from d2v_tf.data.reading import DataError

# Each kind of draw has a stream of its own.
EPOCH, CROP, REPLACEMENT = 1, 2, 3
# An example that cannot be read is replaced by the first readable one of seven drawn at random.
NUM_REPLACEMENTS = 7
# Bucket lengths are multiples of this part of the longest one.
GRID = 40


def choose_bucket_lengths(lengths, num_buckets, max_length):
    """The lengths to which examples are padded, chosen so that the least is padded in all.

    Args:
        lengths: int array `[N]`.
        num_buckets: int. At most so many lengths are chosen.
        max_length: int. Longer examples are cut to it, and no bucket is longer.

    Returns:
        Ascending list of ints, multiples of a fortieth of `max_length` or that itself.
    """
    step = -(-max_length // GRID)
    # The longest example decides the longest bucket: no bucket is longer than it needs to be.
    cells = -(-np.minimum(lengths, max_length) // step)
    ends = np.arange(cells.max() + 1)
    counts = np.bincount(cells, minlength=len(ends)).cumsum()
    # cost[b]: what it costs to pad the examples of cells up to b; one bucket more in each turn.
    cost = counts * ends
    choice = []
    for _ in range(num_buckets - 1):
        # From bucket end a to bucket end b: everything in between is padded to b.
        table = cost[:, None] + (counts[None, :] - counts[:, None]) * ends[None, :]
        table[np.tril_indices(len(ends), -1)] = np.iinfo("int64").max
        choice.append(table.argmin(axis=0))
        cost = table.min(axis=0)
    chosen = [len(ends) - 1]
    for best in reversed(choice):
        chosen.append(best[chosen[-1]])
    return sorted({int(min(c * step, max_length)) for c in chosen if c > 0})


@dataclasses.dataclass(frozen=True)
class PlannedBatch:
    """What a batch is made of.

    Attributes:
        bucket: int.
        indices: int64 `[B]`. The examples.
        places: float64 `[B]` in [0, 1). Where the crop of each is.
    """

    bucket: int
    indices: np.ndarray
    places: np.ndarray


class BucketPlan:
    """Which examples are in which batch, for every batch of a run.

    An example goes to the shortest bucket that holds it, or is cropped to the longest. A batch has
    as many examples of its bucket's length as fit `batch_length`, so there are as many shapes as
    buckets. In every epoch every example comes once: what is left over in a bucket goes to the next
    longer one, and the last batch of the longest is completed with examples drawn at random. How
    many batches an epoch has depends on the lengths alone, so a batch is found by its number.

    Args:
        lengths: int array `[N]`, in samples.
        bucket_lengths: ascending list of ints.
        batch_length: int. Samples in a batch, padding counted. `None` where `batch_size` is given.
        min_length: int. Shorter examples are left out.
        seed: int.
        shuffle: bool. Whether the order of an epoch is drawn from (seed, epoch).
        multiple_of: int. Batch sizes are multiples of it.
        batch_size: optional int. Examples in a batch of any bucket, instead of `batch_length`.

    Attributes:
        shapes: list of (examples, samples), one a bucket.
        batches_per_epoch: int.
        usable: int64 array, the examples that are long enough.
        padded_part: float. The part of an epoch's samples that is padding.

    Raises:
        DataError: where no example is long enough, or a batch cannot hold a single one.
    """

    def __init__(
        self,
        lengths,
        bucket_lengths,
        batch_length,
        min_length=1,
        seed=0,
        shuffle=True,
        multiple_of=1,
        batch_size=None,
    ):
        self.seed, self.shuffle = seed, shuffle
        sizes = [batch_size] * len(bucket_lengths)
        if batch_size is None:
            sizes = [batch_length // n // multiple_of * multiple_of for n in bucket_lengths]
        if not sizes[-1]:
            raise DataError(
                f"data: a batch of {batch_length:,} samples is too small for {multiple_of} examples"
                f" of {bucket_lengths[-1]:,}. Raise the batch or lower the longest crop"
                + (
                    "; or use fewer devices, which share it equally (CUDA_VISIBLE_DEVICES=0 leaves "
                    "one GPU)."
                    if multiple_of > 1
                    else "."
                )
            )
        self.shapes = list(zip(sizes, bucket_lengths, strict=True))
        self.usable = np.flatnonzero(np.asarray(lengths) >= max(min_length, 1))
        if not len(self.usable):
            raise DataError(
                f"data: none of the {len(lengths)} examples has the {min_length:,} samples needed; "
                f"the longest has {max(lengths, default=0):,}."
            )
        cut = np.minimum(np.asarray(lengths)[self.usable], bucket_lengths[-1])
        buckets = np.searchsorted(bucket_lengths, cut)
        self._members = [self.usable[buckets == k] for k in range(len(bucket_lengths))]
        self._epochs, self._lock = {}, threading.Lock()
        counts = self._batch_counts()
        self.batches_per_epoch = sum(counts)
        samples = sum(c * b * n for c, (b, n) in zip(counts, self.shapes, strict=True))
        completed = sum(c * b for c, (b, _) in zip(counts, self.shapes, strict=True))
        self.padded_part = 1 - float(cut.mean()) * completed / samples

    def batch(self, step):
        """The batch of a step; whichever were asked for before makes no difference.

        Returns:
            `PlannedBatch`.
        """
        epoch, number = divmod(step, self.batches_per_epoch)
        bucket, indices = self._epoch(epoch)[number]
        return PlannedBatch(bucket, indices, self._rng(CROP, step).random(len(indices)))

    def replacements(self, step, row):
        """int64 `[NUM_REPLACEMENTS]`: examples to try where that of a batch cannot be read."""
        return self._rng(REPLACEMENT, step, row).choice(self.usable, NUM_REPLACEMENTS)

    def _rng(self, *key):
        return np.random.Generator(np.random.PCG64([self.seed, *key]))

    def _batch_counts(self):
        counts, left_over = [], 0
        for members, (size, _) in zip(self._members, self.shapes, strict=True):
            full, left_over = divmod(left_over + len(members), size)
            counts.append(full)
        counts[-1] += left_over > 0
        return counts

    def _epoch(self, epoch):
        """A list of (bucket, indices), one a batch."""
        with self._lock:  # several threads ask, two epochs at a time
            if epoch not in self._epochs:
                if len(self._epochs) > 1:
                    del self._epochs[min(self._epochs)]
                self._epochs[epoch] = self._draw_epoch(epoch)
            return self._epochs[epoch]

    def _draw_epoch(self, epoch):
        rng = self._rng(EPOCH, epoch)

        def in_order(indices):
            return rng.permutation(indices) if self.shuffle else indices

        batches, left_over = [], np.zeros(0, "int64")
        for bucket, (members, (size, _)) in enumerate(zip(self._members, self.shapes, strict=True)):
            pool = np.concatenate([left_over, in_order(members)])
            if bucket == len(self.shapes) - 1:
                pool = np.concatenate([pool, rng.choice(self.usable, -len(pool) % size)])
            full = len(pool) // size * size
            batches += [(bucket, row) for row in pool[:full].reshape(-1, size)]
            left_over = pool[full:]
        if not self.shuffle:
            return batches
        return [batches[i] for i in rng.permutation(len(batches))]
