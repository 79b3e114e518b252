"""From logits to text: the best label of each frame, or a beam search with a language model."""

from keras import ops

from d2v_tf.finetuning.letters import decode_letters


def greedy_ids(logits, frame_lengths):
    """The best label of every frame, repeats merged and blanks left out.

    Static shapes and Keras' operations only: it runs in a graph, under XLA and in a served model.

    Args:
        logits: `[B, T, V]`, the blank first.
        frame_lengths: int `[B]`. Real frames.

    Returns:
        (int32 `[B, T]`, the labels in order with -1 behind them; int32 `[B]`, how many).
    """
    best = ops.cast(ops.argmax(logits, axis=-1), "int32")  # [B, T]
    size = ops.shape(best)[1]
    real = ops.arange(size, dtype="int32")[None] < ops.cast(frame_lengths, "int32")[:, None]
    changed = ops.concatenate(
        [ops.ones_like(best[:, :1], dtype="bool"), best[:, 1:] != best[:, :-1]], axis=1
    )
    kept = ops.logical_and(ops.logical_and(real, changed), best > 0)
    # Kept ones to the front, in order: a stable sort written out as keys that all differ.
    order = ops.argsort(ops.where(kept, 0, size) + ops.arange(size, dtype="int32")[None], axis=1)
    ids = ops.take_along_axis(ops.where(kept, best, -1), ops.cast(order, "int32"), axis=1)
    return ids, ops.sum(ops.cast(kept, "int32"), axis=1)


class GreedyDecoder:
    """Decodes each frame for itself.

    Args:
        vocabulary: tuple of V str, the blank first.

    Call: (logits `[B, T, V]`, frame lengths `[B]`) -> list of B str.
    """

    def __init__(self, vocabulary):
        self.vocabulary = tuple(vocabulary)

    def __call__(self, logits, frame_lengths):
        ids, lengths = greedy_ids(logits, frame_lengths)
        ids, lengths = ops.convert_to_numpy(ids), ops.convert_to_numpy(lengths)
        return [
            decode_letters(row[:n], self.vocabulary) for row, n in zip(ids, lengths, strict=True)
        ]
