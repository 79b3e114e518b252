"""The rule on the speech backbone: instance norm over time, padding, layer drop."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

from d2v_tf.backbones.speech import Data2VecSpeechBackbone
from d2v_tf.masking import span_mask
from d2v_tf.pretraining.data2vec import Data2Vec
from tests.numpy_reference import average_targets, randomize
from tests.pretraining.tiny import step

SAMPLES = np.array([640, 461, 300])
FRAMES = np.array([31, 22, 14])


def speech_model(seed=1, padding="invariant", rule=(), **kwargs):
    backbone = Data2VecSpeechBackbone(
        num_layers=2,
        hidden_dim=8,
        num_heads=2,
        intermediate_dim=12,
        conv_dims=(5, 6, 7),
        conv_kernel_sizes=(10, 3, 2),
        conv_strides=(5, 2, 2),
        position_conv_layers=2,
        position_conv_kernel_size=5,
        position_conv_groups=2,
        padding=padding,
        **kwargs,
    )
    model = Data2Vec(
        backbone,
        num_target_layers=1,
        target_norm="instance",
        ema=(0.9, 0.99, 10),
        **dict(rule),
    )
    randomize(model.weights, seed)
    return model


def speech_batch(model, extra=0, seed=0):
    """Three examples, `extra` samples of noise longer than the longest."""
    waveform = np.random.default_rng(seed).normal(size=(3, 640)).astype("float32")
    waveform = np.pad(waveform, ((0, 0), (0, extra)), constant_values=3.0)
    padding_mask = np.arange(640 + extra) < SAMPLES[:, None]
    lengths = model.student.feature_lengths(SAMPLES)
    assert_array_equal(lengths, FRAMES)
    num_frames = model.student.feature_lengths(640 + extra)
    seeds = tf.constant([[seed, i] for i in range(3)], tf.int32)
    mask = span_mask(num_frames, seeds, lengths, span_length=4, start_ratio=0.15)
    return {
        "waveform": tf.constant(waveform),
        "padding_mask": tf.constant(padding_mask),
        "mask": mask,
    }


def test_a_step_trains_every_part_and_compiling_makes_no_difference():
    histories = []
    parts, remat = {"compile_parts": True}, {"remat": True}
    ways = ((False, {}), (True, {}), (False, parts), (True, remat), (False, parts | remat))
    for jit_compile, rule in ways:
        model = speech_model(rule=rule)
        model.compile(keras.optimizers.SGD(0.1), jit_compile=jit_compile)
        before = [v.numpy() for v in model.trainable_variables]
        data = tf.data.Dataset.from_tensors(speech_batch(model))
        histories.append(model.fit(data, epochs=2, shuffle=False, verbose=0).history)
        still = [
            v.path
            for v, old in zip(model.trainable_variables, before, strict=True)
            # The key bias shifts a query's logits alike, which softmax ignores.
            if np.array_equal(v, old) and v.name != "key_bias"
        ]
        assert still == []
    for name, expected in histories[0].items():
        for history in histories[1:]:
            assert_allclose(history[name], expected, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("remat", [False, True])
def test_parts_are_compiled_for_every_length(remat):
    parts, plain = speech_model(rule={"compile_parts": True, "remat": remat}), speech_model()
    losses = {}
    for name, model in {"parts": parts, "plain": plain}.items():
        model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
        model.make_train_function()
        batches = [speech_batch(model, extra) for extra in (0, 333, 0)]
        spec = tf.nest.map_structure(lambda x: tf.TensorSpec([3, None], x.dtype), batches[0])
        data = tf.data.Dataset.from_generator(lambda b=batches: b, output_signature=spec)
        losses[name] = [float(model.train_function(data)["loss"]) for data in [iter(data)] * 3]
    assert_allclose(losses["parts"], losses["plain"], rtol=1e-4)


def test_padding_changes_neither_targets_nor_predictions_nor_loss():
    model = speech_model()
    batch, longer = speech_batch(model), speech_batch(model, extra=333)
    assert longer["mask"].shape[1] > 31
    assert_array_equal(longer["mask"][:, :31], batch["mask"])
    real = np.arange(31) < FRAMES[:, None]
    for name in ("targets", "predictions"):
        expected = getattr(model, name)(batch).numpy()
        got = getattr(model, name)(longer).numpy()[:, :31]
        assert_allclose(got[real], expected[real], atol=2e-5)
    logs, expected = step(speech_model(), longer), step(speech_model(), batch)
    for name in logs:
        assert_allclose(logs[name], expected[name], rtol=1e-4, err_msg=name)


def test_each_example_alone_has_the_same_targets_and_predictions():
    model = speech_model()
    batch = speech_batch(model)
    targets, predictions = model.targets(batch), model.predictions(batch)
    for row, (samples, frames) in enumerate(zip(SAMPLES, FRAMES, strict=True)):
        alone = {
            "waveform": batch["waveform"][row : row + 1, :samples],
            "padding_mask": tf.ones((1, samples), tf.int32),
            "mask": batch["mask"][row : row + 1, :frames],
        }
        assert_allclose(targets[row, :frames], model.targets(alone)[0], atol=2e-5)
        assert_allclose(predictions[row, :frames], model.predictions(alone)[0], atol=2e-5)


def test_targets_are_normalised_over_real_frames():
    model = speech_model()
    batch = speech_batch(model)
    embedded = model.student.frontend(
        {"waveform": batch["waveform"], "padding_mask": batch["padding_mask"]}
    )
    padding_mask = embedded["padding_mask"]
    x = model.student.positions(embedded["features"], padding_mask)
    _, blocks = model.teacher(x, padding_mask, features="ffn")
    real = padding_mask.numpy()
    expected = average_targets([np.asarray(b) for b in blocks[-1:]], "instance", False, real)
    assert_allclose(model.targets(batch).numpy()[real], expected[real], rtol=1e-3, atol=1e-4)


def test_only_what_the_mask_hides_is_hidden_from_the_student_alone():
    """A span's inner samples: windows overlap at its border."""
    model = speech_model()
    batch = speech_batch(model)
    mask = np.zeros((3, 31), bool)
    mask[:, 4:10] = True
    waveform = batch["waveform"].numpy()
    # Frame t sees samples 20 t to 20 t + 29: these are seen by frames 5 to 8 only.
    waveform[:, 110:180] += 5.0
    batch = {**batch, "mask": tf.constant(mask)}
    changed = {**batch, "waveform": tf.constant(waveform)}
    assert_array_equal(model.predictions(changed), model.predictions(batch))
    assert np.abs(model.targets(changed) - model.targets(batch)).max() > 1e-2


def test_the_teacher_never_drops():
    """Neither a layer nor anything else: targets are those of a model without dropout."""
    rates = {"dropout": 0.5, "attention_dropout": 0.5, "activation_dropout": 0.5}
    rates |= {"feature_dropout": 0.5, "layer_drop": 0.9}
    model, plain = speech_model(**rates), speech_model()
    batch = speech_batch(model)
    logs, expected = step(model, batch), step(plain, batch)
    assert_allclose(logs["target_var"], expected["target_var"], rtol=1e-5)
    assert abs(logs["pred_var"] / expected["pred_var"] - 1) > 1e-2
