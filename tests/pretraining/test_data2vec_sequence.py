"""The rule on a post-norm backbone with padding and without a class token, as speech and text."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose

from tests import numpy_reference
from tests.pretraining.tiny import PADDING_MASK, sequence_batch, sequence_model, step


def embed(model, tokens, mask=None):
    frontend, w = model.student.frontend, numpy_reference.Weights()
    x = numpy_reference.dense(frontend.dense, np.asarray(tokens, "float64"), w)
    if mask is not None:
        x[mask] = w(model.student.mask_token.embedding)
    return (x + w(model.student.positions.embedding)) * PADDING_MASK[..., None]


def numpy_targets(model, tokens):
    _, blocks, ffns = numpy_reference.encode(model.teacher, embed(model, tokens), PADDING_MASK)
    features = {"ffn": ffns, "block": blocks}[model.target_features]
    return numpy_reference.average_targets(
        features[-2:], model.target_norm, model.normalize_average, PADDING_MASK
    )


def numpy_predictions(model, tokens, mask=None):
    encoder = model.student.encoder
    hidden, _, _ = numpy_reference.encode(encoder, embed(model, tokens, mask), PADDING_MASK)
    return numpy_reference.predict(model, hidden)


@pytest.mark.parametrize("target_norm", ["instance", "batch", "layer"])
@pytest.mark.parametrize("target_features", ["ffn", "block"])
def test_a_step_equals_numpy(target_features, target_norm):
    model = sequence_model(target_features=target_features, target_norm=target_norm)
    batch = sequence_batch()
    mask, tokens = batch["mask"].numpy(), batch["tokens"].numpy()
    targets = numpy_targets(model, tokens)
    predictions = numpy_predictions(model, tokens, mask)
    got = model.targets(batch).numpy()[PADDING_MASK]
    assert_allclose(got, targets[PADDING_MASK], rtol=1e-3, atol=1e-4)
    got = model.predictions(batch).numpy()[PADDING_MASK]
    assert_allclose(got, predictions[PADDING_MASK], rtol=1e-3, atol=1e-4)
    logs = step(model, batch)
    expected = numpy_reference.masked_loss(predictions, targets, mask, beta=0)
    assert_allclose(logs["loss"], expected, rtol=1e-4)


def test_what_stands_in_the_padding_changes_nothing():
    model, batch = sequence_model(), sequence_batch()
    tokens = batch["tokens"].numpy()
    tokens[~PADDING_MASK] = 1e4
    poisoned = {**batch, "tokens": tf.constant(tokens)}
    for name in ("targets", "predictions"):
        clean = getattr(model, name)(batch).numpy()[PADDING_MASK]
        assert_allclose(getattr(model, name)(poisoned).numpy()[PADDING_MASK], clean, atol=1e-5)
    clean = step(sequence_model(), batch)
    assert_allclose(step(model, poisoned)["loss"], clean["loss"], rtol=1e-5)


def test_the_frontend_is_evaluated_once_a_step():
    model, batch = sequence_model(), sequence_batch()
    frontend = model.student.frontend
    frontend.calls = 0
    step(model, batch)
    assert frontend.calls == 1


def test_a_teacher_with_its_own_input_reads_it():
    """Text masks its tokens themselves: the unmasked ones come as `target_tokens`."""
    model, batch = sequence_model(with_mask_token=False), sequence_batch()
    unmasked = batch["tokens"].numpy()
    masked = np.where(batch["mask"].numpy()[..., None], np.float32(0.5), unmasked)
    batch = {**batch, "tokens": tf.constant(masked), "target_tokens": tf.constant(unmasked)}
    targets = numpy_targets(model, unmasked)
    predictions = numpy_predictions(model, masked)
    assert_allclose(model.targets(batch).numpy()[PADDING_MASK], targets[PADDING_MASK], atol=1e-3)
    expected = numpy_reference.masked_loss(predictions, targets, batch["mask"].numpy(), beta=0)
    frontend = model.student.frontend
    frontend.calls = 0
    assert_allclose(step(model, batch)["loss"], expected, rtol=1e-4)
    assert frontend.calls == 2  # two inputs: once each


def test_a_step_trains_every_part():
    model = sequence_model(head_layers=2)
    before = [v.numpy() for v in model.trainable_variables]
    step(model, sequence_batch(), keras.optimizers.SGD(1.0))
    still = [
        v.path
        for v, old in zip(model.trainable_variables, before, strict=True)
        # The key bias shifts a query's logits alike, which softmax ignores.
        if np.array_equal(v, old) and v.name != "key_bias"
    ]
    assert still == []
