"""The CTC loss, linear in the length of the transcript, on any Keras backend."""

from keras import ops

# Log probability of what cannot be; finite, so that a difference of two of them is a number.
NEVER = -1e30


def frames_needed(labels):
    """The fewest frames that can spell each transcript: a blank must part two equal labels.

    Args:
        labels: int `[B, L]`, padded with -1 at the end.

    Returns:
        int32 `[B]`.
    """
    real = labels >= 0
    repeated = ops.logical_and(real[:, 1:], labels[:, 1:] == labels[:, :-1])
    return ops.sum(ops.cast(real, "int32"), axis=1) + ops.sum(ops.cast(repeated, "int32"), axis=1)


def ctc_loss(labels, logits, frame_lengths):
    """Minus the log probability of each transcript, summed over its alignments (Graves 2006).

    Equal to PyTorch's `ctc_loss` with blank 0, in values and gradients. `keras.ops.ctc_loss` works
    with a matrix of all pairs of states at every frame on TensorFlow; this does not.

    Args:
        labels: int `[B, L]`, L at least 1, padded with -1 at the end. The blank is 0, so labels are
            1 and more. An empty transcript is all padding.
        logits: `[B, T, V]`. Computed in float32.
        frame_lengths: int `[B]`. The real frames, which come first; at least 1.

    Returns:
        float32 `[B]`. Where a transcript needs more frames than there are (`frames_needed`), a
        finite number of about 1e30 with a finite gradient, both of no meaning.
    """
    # With the gradient, 8 x 500 frames, V 32, L 80: 79 ms, XLA 31 ms; keras.ops.ctc_loss 1,055 ms,
    # XLA 342 ms. 8 x 800 frames, L 220: 356 ms, XLA 129 ms; keras.ops 10.7 s, XLA 3.0 s
    # (1 thread of a shared CPU, TF 2.21, 2026-11).
    labels, frame_lengths = ops.cast(labels, "int32"), ops.cast(frame_lengths, "int32")
    log_probs = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)  # [B, T, V]
    num_frames, num_labels = ops.shape(log_probs)[1], ops.shape(labels)[1]
    label_lengths = ops.sum(ops.cast(labels >= 0, "int32"), axis=1)  # [B]
    spelled = ops.maximum(labels, 0)
    at_labels = ops.take_along_axis(
        log_probs, ops.repeat(spelled[:, None], num_frames, axis=1), axis=-1
    )
    emitted = ops.concatenate([log_probs[..., :1], at_labels], axis=-1)  # [B, T, 1 + L]

    fixed = ops.stop_gradient(emitted)
    alignments = _alignments(fixed, spelled, label_lengths, frame_lengths)  # [B, T, 1 + 2 L]
    total = ops.logsumexp(alignments, axis=-1, keepdims=True)  # the same at every real frame
    real = ops.arange(num_frames, dtype="int32")[None] < frame_lengths[:, None]
    posterior = ops.where(real[..., None], ops.exp(alignments - total), 0.0)
    blanks = ops.sum(posterior[..., : 1 + num_labels], axis=-1, keepdims=True)
    occupied = ops.concatenate([blanks, posterior[..., 1 + num_labels :]], axis=-1)
    # The loss' derivative by an emission is minus the posterior of being there, so this has the
    # right gradient with nothing to differentiate in the recursion over frames.
    carrier = ops.sum(occupied * emitted, axis=(1, 2))
    return -total[:, 0, 0] - (carrier - ops.stop_gradient(carrier))


def _alignments(emitted, spelled, label_lengths, frame_lengths):
    """Log probability of all alignments that are in a state at a frame.

    The states are the blanks, before every label and after the last, then the labels:
    `[B, T, (1 + L) + L]`, from `emitted` `[B, T, 1 + L]`, the blank's log probability first.
    """
    batch, num_frames = ops.shape(emitted)[0], ops.shape(emitted)[1]
    num_labels = ops.shape(spelled)[1]
    frames = _turned(frame_lengths, num_frames)[:, :, None]  # [B, T, 1]
    labels = _turned(label_lengths, num_labels)  # [B, L]
    blanks = _turned(label_lengths + 1, num_labels + 1)  # [B, 1 + L]

    def turn(at_blanks, at_labels):
        """What belongs to blanks and labels, with both frames and states turned round."""
        at_blanks = ops.take_along_axis(at_blanks, frames, axis=1)
        at_labels = ops.take_along_axis(at_labels, frames, axis=1)
        return at_blanks, ops.take_along_axis(at_labels, labels[:, None], axis=2)

    # The backward variables are the forward ones of the turned problem: one recursion for both.
    turned = ops.concatenate(turn(emitted[..., :1], emitted[..., 1:]), axis=-1)
    at_blanks, at_labels = _forward_variables(
        ops.concatenate([emitted, turned], axis=0),
        ops.concatenate([spelled, ops.take_along_axis(spelled, labels, axis=1)], axis=0),
    )
    back_blanks, back_labels = turn(at_blanks[batch:], at_labels[batch:])
    back_blanks = ops.take_along_axis(back_blanks, blanks[:, None], axis=2)
    # Both count the emission at the frame itself.
    at_blanks = at_blanks[:batch] + back_blanks - emitted[..., :1]
    at_labels = at_labels[:batch] + back_labels - emitted[..., 1:]
    states = ops.arange(num_labels + 1, dtype="int32")[None]
    exists = ops.concatenate(
        [states <= label_lengths[:, None], states[:, :-1] < label_lengths[:, None]], axis=1
    )
    return ops.where(exists[:, None], ops.concatenate([at_blanks, at_labels], axis=-1), NEVER)


def _forward_variables(emitted, spelled):
    """Log probability of reaching each state at each frame: `[B, T, 1 + L]` and `[B, T, L]`."""
    repeated = ops.cast(spelled[:, 1:] == spelled[:, :-1], "float32")
    # From a label to an equal one there is no way but through the blank between them.
    skip = ops.pad(repeated, ((0, 0), (1, 0))) * NEVER
    none = ops.full_like(emitted[:, 0, 1:], NEVER)  # [B, L]
    first = ops.concatenate([ops.zeros_like(none[:, :1]), none], axis=1)  # before the first blank

    def step(states, emission):
        at_blanks, at_labels = states
        before = ops.concatenate([none[:, :1], at_labels], axis=1)  # the label before each blank
        next_blanks = _log_sum(at_blanks, before) + emission[:, :1]
        next_labels = _log_sum(at_labels, at_blanks[:, :-1], before[:, :-1] + skip)
        states = (next_blanks, next_labels + emission[:, 1:])
        return states, states

    _, (at_blanks, at_labels) = ops.scan(step, (first, none), ops.transpose(emitted, (1, 0, 2)))
    return ops.transpose(at_blanks, (1, 0, 2)), ops.transpose(at_labels, (1, 0, 2))


def _log_sum(*terms):
    largest = terms[0]
    for term in terms[1:]:
        largest = ops.maximum(largest, term)
    return largest + ops.log(sum(ops.exp(term - largest) for term in terms))


def _turned(lengths, size):
    """Places that turn the first `lengths` of `size` round, not the rest: int32 `[B, size]`."""
    places = ops.arange(size, dtype="int32")[None]
    return ops.where(places < lengths[:, None], lengths[:, None] - 1 - places, places)
