"""From labelled texts to batches for fine-tuning and evaluation."""

import dataclasses

import numpy as np
import tensorflow as tf

from d2v_tf.data.indexed import shuffled
from d2v_tf.data.length_buckets import choose_bucket_lengths
from d2v_tf.data.no_autograph import no_autograph
from d2v_tf.data.reading import DataError

# Texts that are tokenised at once: lists of Python's ints are large.
TOKENIZE_BATCH = 8192
# Special tokens of `<s> a </s>` and of `<s> a </s></s> b </s>`.
SPECIAL_TOKENS = {1: 2, 2: 4}
# What is not part of a text at its ends; what `tf.strings.strip` takes away.
WHITESPACE = " \t\n\v\f\r"
# So many batches are made of examples sorted by length, where batches have several lengths. Of
# SST-2's training set (16 a batch, 4 lengths, a vocabulary of 1,024) 32% of the tokens are padding
# then, with groups of 16 35%, with single batches 74%; with the one length of 128, 82%.
SORTED_BATCHES = 64
# The stream of `stateless_shuffle` for the order of batches.
BATCH_ORDER = 1 << 40


@dataclasses.dataclass(frozen=True, eq=False)
class TokenizedText:
    """Labelled texts as ids, with their special tokens, in memory.

    Attributes:
        name: str.
        token_ids: int32 array `[M]`. All examples, one behind the other.
        row_splits: int64 array `[N + 1]`. Where each begins, and where the last ends.
        labels: int64 array `[N]`, classes; or float32 `[N]`, scores.
        class_names: tuple of str, or `None` for scores.
        sequence_length: int. No example is longer.
        padding_token_id: int.
        num_cut: int. Examples that were cut.
    """

    name: str
    token_ids: np.ndarray
    row_splits: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...] | None
    sequence_length: int
    padding_token_id: int
    num_cut: int

    @property
    def num_examples(self):
        """int. N."""
        return len(self.labels)

    @property
    def num_classes(self):
        """int. Outputs that a model needs: 1 for scores."""
        return 1 if self.class_names is None else len(self.class_names)

    @property
    def lengths(self):
        """int64 array `[N]`. Tokens of each example, special ones included."""
        return np.diff(self.row_splits)

    def describe(self):
        """str. How many examples, how long, and how many were cut, for a summary."""
        lengths = self.lengths
        line = (
            f"{self.num_examples:,} texts of {lengths.min()} to {lengths.max()} tokens, "
            f"{lengths.mean():.1f} on average"
        )
        if self.num_cut:
            line += f"; {self.num_cut:,} were longer and are cut to {self.sequence_length}"
        return line

    def bucket_lengths(self, number):
        """At most so many lengths to pad batches to, so that the least is padded.

        Returns:
            Ascending list of ints.
        """
        return choose_bucket_lengths(self.lengths, number, self.sequence_length)

    def batch(self, indices, lengths):
        """Some examples, in a graph.

        Args:
            indices: int64 `[B]`.
            lengths: ascending list of ints. The batch has the least that holds its longest
                example.

        Returns:
            ({"token_ids": int32 `[B, T]`, "padding_mask": bool `[B, T]`}, labels): classes as
            float32 `[B, C]`, one-hot, scores as float32 `[B, 1]`.
        """
        ragged = tf.gather(self._ragged, indices)
        length = lengths[0]
        if len(lengths) > 1:
            longest = tf.cast(tf.reduce_max(ragged.row_lengths()), tf.int32)
            length = tf.gather(lengths, tf.searchsorted(lengths, longest[None])[0])
        tokens = ragged.to_tensor(self.padding_token_id)
        missing = length - tf.shape(tokens)[1]
        tokens = tf.pad(tokens, [[0, 0], [0, missing]], constant_values=self.padding_token_id)
        tokens = tf.ensure_shape(
            tokens, [indices.shape[0], lengths[0] if len(lengths) == 1 else None]
        )
        labels = tf.gather(self._labels, indices)
        if self.class_names is None:
            labels = labels[:, None]
        else:
            labels = tf.one_hot(labels, self.num_classes)
        inputs = {"token_ids": tokens, "padding_mask": tokens != self.padding_token_id}
        return inputs, labels

    def __post_init__(self):
        ragged = tf.RaggedTensor.from_row_splits(self.token_ids, self.row_splits)
        object.__setattr__(self, "_ragged", ragged)
        object.__setattr__(self, "_labels", tf.constant(self.labels))


def tokenize(labelled, tokenizer, sequence_length):
    """Makes `<s> a </s>` of every text and `<s> a </s></s> b </s>` of every pair.

    White space at both ends of a text is left out. Of a pair that is too long, tokens are cut off
    the end of the longer text, of the second one where both are equally long.

    Args:
        labelled: `LabelledText`.
        tokenizer: `TextTokenizer`.
        sequence_length: int. Longer examples are cut to it.

    Returns:
        `TokenizedText`.

    Raises:
        DataError: where the length has no room for a token of each text.
    """
    second = labelled.second_sentences
    texts = [labelled.sentences] if second is None else [labelled.sentences, second]
    room = sequence_length - SPECIAL_TOKENS[len(texts)]
    if room < len(texts):
        raise DataError(
            f"data: {labelled.name} has {len(texts)} texts an example, which need at least "
            f"{SPECIAL_TOKENS[len(texts)] + len(texts)} tokens. Received: {sequence_length}"
        )
    start, end = [tokenizer.start_token_id], [tokenizer.end_token_id]
    parts, lengths, num_cut = [], [], 0
    for first in range(0, labelled.num_examples, TOKENIZE_BATCH):
        encoded = [
            tokenizer.encode(text.strip(WHITESPACE) for text in column[first:][:TOKENIZE_BATCH])
            for column in texts
        ]
        rows = []
        for ids in zip(*encoded, strict=True):
            kept = cut_longest(ids, room)
            num_cut += sum(map(len, kept)) < sum(map(len, ids))
            row = start + kept[0] + end
            rows.append(row if second is None else row + end + kept[1] + end)
        lengths += map(len, rows)
        parts.append(np.concatenate([np.array(row, "int32") for row in rows]))
    return TokenizedText(
        labelled.name,
        np.concatenate(parts),
        np.concatenate([[0], np.cumsum(lengths)]).astype("int64"),
        labelled.labels,
        labelled.class_names,
        sequence_length,
        tokenizer.padding_token_id,
        int(num_cut),
    )


def cut_longest(ids, room):
    """Cuts one or two lists of tokens, together, to a length; the longer one first.

    Args:
        ids: one or two lists of int.
        room: int.

    Returns:
        A list of as many lists.

    Example:
    >>> cut_longest([[1, 2, 3, 4], [5, 6]], 5)
    [[1, 2, 3], [5, 6]]
    """
    if len(ids) == 1:
        return [ids[0][:room]]
    second = min(len(ids[1]), max(room // 2, room - len(ids[0])))
    return [ids[0][: room - second], ids[1][:second]]


@no_autograph
def training_dataset(
    tokenized,
    *,
    batch_size,
    seed,
    start,
    lengths=None,
    shuffle=True,
    num_shards=1,
    shard=0,
):
    """Batches for training, without end; a function of (seed, position) alone.

    With several lengths, each 64 batches are made of examples sorted by length, and then follow
    each other at random. So an epoch still has every example once, but for what such a group takes
    from the next epoch.

    Args:
        tokenized: `TokenizedText`.
        batch_size: int. Examples a batch, of this shard.
        seed: int.
        start: int. Position of the first example; batch n of a run starts at n times the batch,
            over all shards.
        lengths: optional ascending list of ints, to which batches are padded, such as
            `tokenized.bucket_lengths(4)`. Without it, all are padded to the sequence length.
        shuffle: bool. Whether the order of an epoch is drawn from (seed, epoch); otherwise the
            examples stay in order.
        num_shards, shard: ints. Every num_shards-th position, from `start + shard` on; with
            several lengths, every num_shards-th example of a batch.

    Returns:
        A dataset of ({"token_ids": int32 `[B, T]`, "padding_mask": bool `[B, T]`}, labels): classes
        as float32 `[B, C]`, one-hot, scores as float32 `[B, 1]`. Its static shape has T where all
        batches have the same.

    Raises:
        ValueError: where several lengths are given and no batch starts at `start`.
        DataError: where an example is longer than all lengths.
    """
    number = tokenized.num_examples
    lengths = _check_lengths(tokenized, lengths)

    def example(position):
        index = position % number
        return shuffled(index, position // number, seed, number) if shuffle else index

    if len(lengths) > 1 and shuffle:
        indices = _sorted_batches(
            example, tokenized.lengths, start, batch_size, seed, num_shards, shard
        )
    else:
        positions = tf.data.Dataset.range(start, np.iinfo(np.int64).max)
        indices = positions.shard(num_shards, shard).map(example)
        indices = indices.batch(batch_size, drop_remainder=True)
    batches = indices.map(
        lambda i: tokenized.batch(tf.ensure_shape(i, [batch_size]), lengths),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    return batches.prefetch(tf.data.AUTOTUNE)


@no_autograph
def evaluation_dataset(tokenized, *, batch_size, lengths=None):
    """Each example once, in order.

    Args:
        tokenized: `TokenizedText`.
        batch_size: int. The last batch may be smaller.
        lengths: as `training_dataset`.

    Returns:
        A dataset as `training_dataset` gives it.
    """
    lengths = _check_lengths(tokenized, lengths)
    indices = tf.data.Dataset.range(tokenized.num_examples).batch(batch_size)
    batches = indices.map(
        lambda i: tokenized.batch(i, lengths), num_parallel_calls=tf.data.AUTOTUNE
    )
    return batches.prefetch(tf.data.AUTOTUNE)


def _check_lengths(tokenized, lengths):
    if lengths is None:
        return [tokenized.sequence_length]
    longest = tokenized.lengths.max()
    if longest > lengths[-1]:
        raise DataError(
            f"data: {tokenized.name} has an example of {longest} tokens, and the longest batches "
            f"have {lengths[-1]}. Tokenize it to that length."
        )
    return list(lengths)


def _sorted_batches(example, row_lengths, start, batch_size, seed, num_shards, shard):
    """Indices `[B]` of batches of about equal length."""
    whole = batch_size * num_shards
    first, offset = divmod(start, whole)
    if offset:
        raise ValueError(
            "With several lengths, start must be a multiple of the batch over all shards. "
            f"Received: start={start}, batch_size={batch_size}, num_shards={num_shards}"
        )
    group, skipped = divmod(first, SORTED_BATCHES)
    row_lengths = tf.constant(row_lengths)

    def sort(number, indices):
        order = tf.argsort(tf.gather(row_lengths, indices), stable=True)
        batches = tf.reshape(tf.gather(indices, order), [SORTED_BATCHES, whole])
        key = tf.stack([tf.constant(seed, tf.int64), BATCH_ORDER + number])
        return tf.random.experimental.stateless_shuffle(batches, key)[:, shard::num_shards]

    size = SORTED_BATCHES * whole
    positions = tf.data.Dataset.range(group * size, np.iinfo(np.int64).max)
    groups = positions.map(example).batch(size, drop_remainder=True).enumerate(group)
    return groups.map(sort).unbatch().skip(skipped)
