"""One update as `fit` runs it: compiled, in micro-batches, in half precision."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose

from d2v_tf.pretraining import part_compilers
from tests.pretraining.tiny import (
    MASK,
    sequence_batch,
    sequence_model,
    step,
    vision_backbone,
    vision_batch,
    vision_model,
)

LOGS = {"loss", "target_var", "pred_var", "frontend_var", "ema_decay", "learning_rate", "examples"}


def fit(model, batch, jit_compile=False, steps=2):
    """Runs `fit`; returns the last epoch's logs and all weights."""
    model.compile(keras.optimizers.SGD(0.1), jit_compile=jit_compile)
    data = tf.data.Dataset.from_tensors(batch)
    history = model.fit(data, epochs=steps, shuffle=False, verbose=0).history
    assert set(history) == LOGS
    return history, [v.numpy() for v in model.weights]


def assert_same_run(one, other, atol=1e-5):
    for name in LOGS:
        # A deviation comes from a difference of sums, in which a small one loses digits.
        assert_allclose(one[0][name], other[0][name], rtol=1e-4, atol=1e-5, err_msg=name)
    for a, b in zip(one[1], other[1], strict=True):
        assert_allclose(a, b, atol=atol)


def test_xla_makes_no_difference():
    batch = vision_batch()
    assert_same_run(
        fit(vision_model(), batch, jit_compile=True), fit(vision_model(), batch), atol=1e-4
    )


def test_xla_makes_no_difference_with_micro_batches_padding_and_instance_norm():
    batch = sequence_batch()
    compiled = fit(sequence_model(accumulate=2, max_masked=5), batch, jit_compile=True)
    assert_same_run(compiled, fit(sequence_model(), batch), atol=1e-4)


def test_compiling_parts_makes_no_difference():
    batch = vision_batch()
    assert_same_run(
        fit(vision_model(compile_parts=True), batch), fit(vision_model(), batch), atol=1e-4
    )
    batch = sequence_batch()
    fused = fit(sequence_model(compile_parts=True, accumulate=2, remat=True, max_masked=5), batch)
    assert_same_run(fused, fit(sequence_model(), batch), atol=1e-4)


def num_compiled(model, jit_compile):
    """The functions in the graph of a step that XLA is given."""
    model.compile(keras.optimizers.SGD(0.1), jit_compile=jit_compile)
    model.make_train_function()
    graph = tf.function(model.train_step).get_concrete_function(vision_batch()).graph
    return sum(f.attr["_XlaMustCompile"].b for f in graph.as_graph_def().library.function)


def test_parts_are_compiled_where_the_whole_is_not():
    assert num_compiled(vision_model(), False) == 0
    assert num_compiled(vision_model(compile_parts=True), False) > 1
    whole = num_compiled(vision_model(), True)
    assert num_compiled(vision_model(compile_parts=True), True) == whole > 0


def test_parts_in_half_precision():
    parts, plain = (
        fit(
            vision_model(compile_parts=p, backbone=vision_backbone(dtype="mixed_bfloat16")),
            vision_batch(),
        )
        for p in (True, False)
    )
    for name in ("loss", "target_var", "pred_var"):
        assert_allclose(parts[0][name], plain[0][name], rtol=0.02)


def test_parts_are_not_compiled_again_and_again_in_eager_mode(monkeypatch):
    model, batch = vision_model(compile_parts=True), vision_batch()
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    monkeypatch.setattr(part_compilers, "fused", None)
    model.train_step(batch)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_micro_batches_make_no_difference(accumulate):
    """The masked positions differ in number from one micro-batch to the next: 3, 1, 5, 2."""
    batch = vision_batch()
    assert_same_run(fit(vision_model(accumulate=accumulate), batch), fit(vision_model(), batch))


def test_a_batch_that_does_not_split_is_refused():
    with pytest.raises(ValueError, match="accumulate must divide.*accumulate=3, a batch of 4"):
        step(vision_model(accumulate=3), vision_batch())


@pytest.mark.parametrize("max_masked", [5, 6, 100])
def test_a_fixed_number_of_masked_positions_makes_no_difference(max_masked):
    """5 is the most that the batch has."""
    batch = vision_batch()
    assert MASK.sum(axis=1).max() == 5
    model, other = vision_model(max_masked=max_masked), vision_model()
    logs, expected = step(model, batch), step(other, batch)
    for name in LOGS:
        assert_allclose(logs[name], expected[name], rtol=1e-5)
    for a, b in zip(model.weights, other.weights, strict=True):
        assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_batches_may_differ_in_size_and_length(jit_compile):
    """The step is traced once for shapes that it learns of only when it runs."""

    def cut(rows, length):
        return {k: v[:rows, :length] for k, v in sequence_batch().items()}

    batches = [cut(4, 6), cut(2, 4), cut(3, 6)]
    spec = {
        "tokens": tf.TensorSpec((None, None, 5)),
        "padding_mask": tf.TensorSpec((None, None), tf.bool),
        "mask": tf.TensorSpec((None, None), tf.bool),
    }
    data = tf.data.Dataset.from_generator(lambda: batches, output_signature=spec)
    model = sequence_model(max_masked=lambda length: length - 1, positions="none")
    model.compile(keras.optimizers.SGD(0.1), jit_compile=jit_compile)
    model.fit(data, steps_per_epoch=len(batches), verbose=0, shuffle=False)
    other = sequence_model(positions="none")
    for batch in batches:
        step(other, batch)
    for a, b in zip(model.weights, other.weights, strict=True):
        assert_allclose(a, b, atol=1e-5)


def test_half_precision_keeps_teacher_loss_and_weights_in_float32():
    batch = vision_batch()
    exact = step(vision_model(), batch)
    model = vision_model(vision_backbone(dtype="mixed_bfloat16"))
    assert {v.dtype for v in model.weights} == {"float32"}
    before = [v.numpy().astype("float64") for v in model.teacher.weights]
    assert model.targets(batch).dtype == model.predictions(batch).dtype == tf.float32
    logs = step(model, batch)
    for name in ("loss", "target_var", "pred_var"):
        assert_allclose(logs[name], exact[name], rtol=0.05)
    student = model.student.encoder.weights
    for new, old, own in zip(model.teacher.weights, before, student, strict=True):
        assert_allclose(new, 0.9 * old + 0.1 * own.numpy(), rtol=1e-5, atol=1e-6)


def test_half_precision_by_the_global_policy():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = vision_model()
    assert {v.dtype for v in model.weights} == {"float32"}
    assert model.student.encoder.blocks[0].compute_dtype == "bfloat16"
    assert model.teacher.blocks[0].compute_dtype == "bfloat16"
    assert np.isfinite(list(step(model, vision_batch()).values())).all()


def test_fit_overfits_one_batch():
    """Downhill is where the updates go: with the teacher frozen the loss falls far."""
    model = vision_model(ema=(1.0, 1.0, 0), loss_beta=2.0)
    model.compile(keras.optimizers.Adam(0.01), jit_compile=False)
    data = tf.data.Dataset.from_tensors(vision_batch()).repeat()
    history = model.fit(data, epochs=6, steps_per_epoch=25, shuffle=False, verbose=0)
    losses = history.history["loss"]
    assert losses[-1] < 0.2 * losses[0]
