"""The order in which TFRecord files are read: an epoch in lanes, which can be read apart."""

import math

import tensorflow as tf

from d2v_tf.data.indexed import shuffled

# Records in memory to be shuffled, of all lanes: each shuffles its own part of them.
SHUFFLE_BLOCK = 4096
UNSHUFFLED_BLOCK = 64
MAX_LANES = 64
# Up to so many files each may have a lane, so that few files are mixed as well as many.
FEW_FILES = 16
# An example that cannot be read is replaced by one of the two that follow it.
NUM_REPLACEMENTS = 2


def count_lanes(num_files, num_examples):
    """How many lanes files have: a power of 2, so that usual numbers of workers divide it.

    A lane of many is two files or more, for it begins in the middle of one, and what is before
    that is read and dropped.

    Args:
        num_files, num_examples: ints.
    """
    files = max(num_files // 2, min(num_files, FEW_FILES))
    most = min(MAX_LANES, files, num_examples // (NUM_REPLACEMENTS + 1))
    return 1 << max(most, 1).bit_length() - 1


def choose_block(num_lanes, num_examples, at_least):
    """How many records of a lane are shuffled together.

    Args:
        num_lanes, num_examples: ints.
        at_least: int. How many there should be.

    Returns:
        int, a little more, such that a lane's last block, too, has enough records to replace one
        that is bad; `at_least` where no such number is near.
    """
    sizes = {num_examples // num_lanes, -(-num_examples // num_lanes)}
    for block in range(at_least, at_least + 2 * NUM_REPLACEMENTS + 2):
        if all(size % block == 0 or size % block > NUM_REPLACEMENTS for size in sizes):
            return block
    return at_least


def read_epoch(parts, epoch, seed, start, every, shuffle=True):
    """Every so many places of an epoch, from one of them on, reading few others.

    The files, in an order drawn from (seed, epoch), are one long row of records. It is cut into L
    lanes of equal length, the first of which have one more if need be. Place k of the epoch is
    the next one of lane `k % L`, whose records are shuffled within blocks. So what comes before
    `start` is left out but for the file in which each lane starts, and who wants every n-th place
    opens the files of every gcd(n, L)-th lane alone.

    Args:
        parts: list of (file, skip, take): which records of which files.
        epoch: int64 scalar.
        seed: int.
        start: int64 scalar. First place; behind the last one there is nothing.
        every: int. Places from one to the next.
        shuffle: bool. Without it places are the order of the parts.

    Returns:
        A dataset of `[1 + NUM_REPLACEMENTS]` serialized records: each with what replaces it.
    """
    files, skips, takes = (tf.constant(column) for column in zip(*parts, strict=True))
    skips, takes = tf.cast(skips, tf.int64), tf.cast(takes, tf.int64)
    num_examples = sum(take for _, _, take in parts)
    num_lanes = count_lanes(len(parts), num_examples) if shuffle else 1
    together = max(1, SHUFFLE_BLOCK // num_lanes) if shuffle else UNSHUFFLED_BLOCK
    block = choose_block(num_lanes, num_examples, together)
    if shuffle and len(parts) > 1:
        order = shuffled(tf.range(len(parts), dtype=tf.int64), epoch, seed, len(parts))
        files, skips, takes = (tf.gather(column, order) for column in (files, skips, takes))
    ends = tf.cumsum(takes)

    def between(first, last):
        """The records from one place of the long row to before another."""
        low = tf.clip_by_value(first - (ends - takes), 0, takes)
        high = tf.clip_by_value(last - (ends - takes), 0, takes)
        read = tf.where(high > low)[:, 0]
        pieces = (tf.gather(column, read) for column in (files, skips + low, high - low))
        return tf.data.Dataset.from_tensor_slices(tuple(pieces)).flat_map(read_part)

    def lane_records(lane):
        size, longer = num_examples // num_lanes, num_examples % num_lanes
        first = lane * size + tf.minimum(lane, longer)
        last = first + size + tf.cast(lane < longer, tf.int64)
        before = tf.maximum(start - lane + num_lanes - 1, 0) // num_lanes  # start, in this lane
        number = before // block
        blocks = between(first + number * block, last).batch(block).enumerate(number)

        def shuffle_block(number, records):
            key = epoch * 2**32 + lane * 2**26 + number
            # Dataset.shuffle takes no seed tensor once TensorFlow's global seed is 0.
            return tf.random.experimental.stateless_shuffle(
                records, tf.stack([tf.constant(seed, tf.int64), key])
            )

        def with_replacements(records):
            """One at a time: all together would be the block several times in memory."""
            size = tf.size(records, tf.int64)
            following = tf.range(NUM_REPLACEMENTS + 1, dtype=tf.int64)
            places = tf.data.Dataset.range(size)
            return places.map(lambda place: tf.gather(records, (place + following) % size))

        if shuffle:
            blocks = blocks.map(shuffle_block)
        else:
            blocks = blocks.map(lambda _, records: records)
        return blocks.prefetch(1).flat_map(with_replacements).skip(before % block)

    lanes_apart = math.gcd(every, num_lanes)
    lanes = (start + tf.range(0, num_lanes, lanes_apart, dtype=tf.int64)) % num_lanes
    records = tf.data.Dataset.from_tensor_slices(lanes).interleave(
        lane_records,
        cycle_length=num_lanes // lanes_apart,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    return records.shard(every // lanes_apart, 0)


def read_part(file, skip, take):
    """Some records of a file, in their order; the ones before them are read and dropped."""
    records = tf.data.TFRecordDataset(file)
    return records.skip(tf.cast(skip, tf.int64)).take(tf.cast(take, tf.int64))
