"""The CTC loss against PyTorch's, against Keras' own, and against all alignments written out."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from d2v_tf.data.transcribed import pad_labels
from d2v_tf.finetuning.ctc_loss import ctc_loss, frames_needed

# Repeats, an empty transcript, one that fits to the frame (3 labels and 2 blanks in 5 frames), one
# of a single frame.
TRANSCRIPTS = [[3, 1, 2], [2, 2, 5, 5, 5], [], [4, 4, 4], [1]]
FRAMES = [12, 20, 9, 5, 1]
V = 6


def batch(num_frames=20):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (len(FRAMES), num_frames, V)).astype("float32")
    labels = pad_labels([np.array(row, "int32") for row in TRANSCRIPTS])
    return labels, logits, np.array(FRAMES, "int32")


def with_gradient(labels, logits, lengths):
    """Losses `[B]` and their sum's gradient `[B, T, V]`."""
    logits = tf.convert_to_tensor(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        losses = ctc_loss(labels, logits, lengths)
        total = tf.reduce_sum(losses)
    return losses, tape.gradient(total, logits)


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_equals_pytorch_in_value_and_gradient(mode):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
    labels, logits, lengths = batch()
    theirs = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.functional.ctc_loss(
        theirs.log_softmax(-1).transpose(0, 1),
        torch.tensor([label for row in TRANSCRIPTS for label in row]),
        torch.tensor(FRAMES),
        torch.tensor([len(row) for row in TRANSCRIPTS]),
        blank=0,
        reduction="none",
    )
    expected.sum().backward()
    function = with_gradient
    if mode != "eager":
        function = tf.function(with_gradient, jit_compile=mode == "xla")
    losses, gradient = function(labels, logits, lengths)
    np.testing.assert_allclose(losses, expected.detach().numpy(), rtol=1e-5)
    np.testing.assert_allclose(gradient, theirs.grad.numpy(), atol=1e-5)


def test_equals_kerass_own_loss():
    labels, logits, lengths = batch()
    expected = keras.ops.ctc_loss(
        np.maximum(labels, 0), logits, (labels >= 0).sum(axis=1), lengths, mask_index=0
    )
    np.testing.assert_allclose(ctc_loss(labels, logits, lengths), expected, rtol=1e-5)


def test_is_the_sum_over_all_alignments():
    labels = np.array([[1, 1]], "int32")
    logits = np.random.default_rng(1).normal(size=(1, 4, 3)).astype("float32")
    probabilities = np.exp(logits[0]) / np.exp(logits[0]).sum(axis=-1, keepdims=True)
    total = 0.0
    for path in itertools.product(range(3), repeat=4):
        merged = [label for label, _ in itertools.groupby(path) if label]
        if merged == [1, 1]:
            total += np.prod([probabilities[t, label] for t, label in enumerate(path)])
    np.testing.assert_allclose(ctc_loss(labels, logits, np.array([4])), [-np.log(total)], rtol=1e-5)


def test_padding_changes_nothing():
    labels, logits, lengths = batch()
    losses, gradient = with_gradient(labels, logits, lengths)
    longer = np.concatenate([logits, np.full((5, 7, V), 50.0, "float32")], axis=1)
    longer[2, 9:] = -80.0  # an example's own padding
    wider = np.pad(labels, ((0, 0), (0, 4)), constant_values=-1)
    got, got_gradient = with_gradient(wider, longer, lengths)
    np.testing.assert_allclose(got, losses, rtol=1e-6)
    np.testing.assert_allclose(got_gradient[:, :20], gradient, atol=1e-6)
    np.testing.assert_array_equal(got_gradient[:, 20:], 0)


def test_long_and_certain_input_stays_finite():
    rng = np.random.default_rng(0)
    labels = rng.integers(1, V, (2, 200)).astype("int32")
    logits = 300 * np.eye(V, dtype="float32")[rng.integers(0, V, (2, 900))]  # certain, and wrong
    losses, gradient = with_gradient(labels, logits, np.array([900, 700], "int32"))
    assert np.isfinite(losses).all() and np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0.5


def test_a_transcript_without_alignment_has_a_finite_gradient():
    labels, logits, lengths = batch()
    lengths[3] = 4  # 5 are needed
    losses, gradient = with_gradient(labels, logits, lengths)
    assert losses[3] > 1e20
    assert np.isfinite(losses).all() and np.isfinite(gradient).all()


def test_frames_needed_counts_a_blank_between_equal_labels():
    labels, _, _ = batch()
    np.testing.assert_array_equal(frames_needed(labels), [3, 8, 0, 5, 1])
