"""The CTC model: what it computes, what its loss counts, and what it keeps."""

import importlib.util
import os
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

import d2v_tf
from d2v_tf.finetuning.ctc import Data2VecSpeechCTC
from d2v_tf.finetuning.ctc_loss import ctc_loss
from tests.finetuning.tiny_ctc import FRAMES, VOCABULARY, batch, ctc_model, speech_backbone


def test_logits_are_the_heads_of_the_backbones_last_hidden_states():
    model = ctc_model()
    inputs, _ = batch()
    hidden = np.asarray(model.backbone(inputs))
    kernel, bias = (np.asarray(w) for w in model.head.weights)
    np.testing.assert_allclose(model(inputs), hidden @ kernel + bias, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(model.frame_lengths(inputs), FRAMES)


def test_the_padding_mask_may_be_left_out():
    model = ctc_model()
    inputs, labels = batch((30, 30, 30))
    expected = model(inputs)
    bare = {"waveform": inputs["waveform"]}
    np.testing.assert_allclose(model(bare), expected, atol=1e-5)
    np.testing.assert_array_equal(model.frame_lengths(bare), [30] * 3)
    model.compile("sgd", jit_compile=False)
    losses = [
        model.evaluate(x, labels, verbose=0, return_dict=True)["loss"] for x in (inputs, bare)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_masks_put_the_mask_token_on_spans_and_zeros_on_channels_in_training_only():
    model = ctc_model(time_mask_ratio=0.4, time_mask_length=3, channel_mask_ratio=0.5)
    inputs, _ = batch()
    parts = keras.Model(model.inputs, [model.time_mask.output, model.channel_mask.output])
    plain = np.asarray(model.backbone.frontend(inputs)["features"])
    mask, features = (np.asarray(x) for x in parts(inputs, training=False))
    assert not mask.any()
    np.testing.assert_allclose(features, plain, atol=1e-6)

    mask, features = (np.asarray(x) for x in parts(inputs, training=True))
    real = np.arange(30) < np.array(FRAMES)[:, None]
    assert mask.any(axis=1).all() and not (mask & ~real).any()
    hidden_channels = (features == 0).all(axis=1)  # [B, D]
    assert hidden_channels.any() and not hidden_channels.all()
    token = np.asarray(model.backbone.mask_token.embedding)
    expected = np.where(mask[..., None], token, plain)
    expected = np.where(hidden_channels[:, None], 0, expected)
    np.testing.assert_allclose(features, expected, atol=1e-6)


def test_the_loss_is_the_mean_over_examples_and_leaves_out_what_cannot_be_spelled():
    model = ctc_model()
    model.compile("sgd", jit_compile=False)
    inputs, labels = batch()
    each = np.asarray(ctc_loss(labels, model(inputs), np.array(FRAMES)))
    logs = model.evaluate(inputs, labels, verbose=0, return_dict=True)
    assert logs["loss"] == pytest.approx(each.mean(), rel=1e-5)
    assert logs["too_long"] == 0

    labels = np.pad(labels, ((0, 0), (0, 3)), constant_values=-1)
    labels[2] = [5, 5, 5, 5, 6, -1, -1]  # 5 letters and 3 blanks in 6 frames
    logs = model.evaluate(inputs, labels, verbose=0, return_dict=True)
    assert logs["loss"] == pytest.approx(each[:2].sum() / 3, rel=1e-5)
    assert logs["too_long"] == 1
    weights = np.array([0.0, 2.0, 1.0], "float32")
    logs = model.evaluate(inputs, labels, sample_weight=weights, verbose=0, return_dict=True)
    assert logs["loss"] == pytest.approx(2 * each[1] / 3, rel=1e-5)


def test_an_example_that_cannot_be_spelled_has_no_gradient():
    model = ctc_model()
    model.compile("sgd", jit_compile=False)
    inputs, labels = batch()
    labels = np.concatenate([labels, labels], axis=1)
    labels[1:] = 5  # 8 letters and 7 blanks; the second has 17 frames, the third 6
    logits = tf.convert_to_tensor(model(inputs))
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = model.compute_loss(inputs, labels, logits)
    gradient = tape.gradient(loss, logits).numpy()
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[1]).max() > 1e-3
    np.testing.assert_array_equal(gradient[2], 0)


# Compiling the whole step by XLA takes half a minute.
@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_fit_lowers_the_loss(jit_compile):
    model = ctc_model(dropout=0.1, time_mask_ratio=0.1, time_mask_length=2)
    inputs, labels = batch()
    data = tf.data.Dataset.from_tensors((inputs, labels)).repeat()
    # The lengths of a batch are known to none but the batch, as in a run of several buckets.
    data = data.apply(_without_static_shapes)
    model.compile(keras.optimizers.Adam(0.01), jit_compile=jit_compile)
    history = model.fit(data, steps_per_epoch=10, epochs=3, verbose=0, shuffle=False).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert history["too_long"] == [0] * 3


def _without_static_shapes(data):
    spec = tf.nest.map_structure(
        lambda s: tf.TensorSpec([None] * len(s.shape), s.dtype), data.element_spec
    )
    return tf.data.Dataset.from_generator(lambda: iter(data), output_signature=spec)


def test_half_precision_keeps_head_and_loss_in_float32():
    model = ctc_model(speech_backbone(dtype="mixed_bfloat16"))
    inputs, labels = batch()
    logits = model(inputs)
    assert logits.dtype == "float32"
    assert model.backbone(inputs).dtype == "bfloat16"
    model.compile(keras.optimizers.SGD(0.01), jit_compile=False)
    logs = model.evaluate(inputs, labels, verbose=0, return_dict=True)
    expected = np.mean(ctc_loss(labels, logits, np.array(FRAMES)))
    assert logs["loss"] == pytest.approx(expected, rel=1e-2)
    before = model.head.get_weights()[0]
    model.train_on_batch(inputs, labels)
    after = model.head.get_weights()[0]
    assert np.isfinite(after).all() and (before != after).any()


def test_replicas_average_their_gradients():
    """The loss on two replicas is scaled so that Keras' sum of gradients is the batch's."""
    script = """
        import keras, numpy as np, tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
        from tests.finetuning.tiny_ctc import batch, ctc_model

        inputs, labels = batch((30, 30))
        # Keras reduces the first batch over the replicas, and TensorFlow adds no booleans.
        inputs["padding_mask"] = inputs["padding_mask"].astype("int32")
        data = tf.data.Dataset.from_tensor_slices((inputs, labels[:2])).batch(2).repeat()
        kernels = []
        for strategy in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy()):
            with strategy.scope():
                model = ctc_model(time_mask_ratio=0.0, channel_mask_ratio=0.0)
                model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
                before = model.head.get_weights()[0]
                model.fit(data, steps_per_epoch=1, verbose=0, shuffle=False)
            kernels.append(model.head.get_weights()[0])
        assert strategy.num_replicas_in_sync == 2
        assert np.abs(kernels[0] - before).max() > 0.1
        np.testing.assert_allclose(kernels[0], kernels[1], atol=1e-4)
    """
    run_script(script)


def run_script(script, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_preset_round_trip(tmp_path):
    model = ctc_model(dropout=0.1, time_mask_ratio=0.3)
    inputs, _ = batch()
    model.save_to_preset(str(tmp_path))
    again = Data2VecSpeechCTC.from_preset(str(tmp_path))
    np.testing.assert_allclose(again(inputs), model(inputs), atol=1e-6)
    assert again.vocabulary == VOCABULARY
    assert again.get_config() == model.get_config()
    backbone = d2v_tf.load_backbone(str(tmp_path), verbose=False)
    np.testing.assert_allclose(backbone(inputs), model.backbone(inputs), atol=1e-6)
    half = Data2VecSpeechCTC.from_preset(str(tmp_path), dtype="bfloat16")
    assert half.backbone(inputs).dtype == "bfloat16"
    np.testing.assert_allclose(half(inputs), model(inputs), atol=0.3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocabulary": ("<pad>",)}, "at least one letter"),
        ({"vocabulary": ("<pad>", "a", "a")}, "each once"),
        ({"time_mask_ratio": 1.0}, "time_mask_ratio must be"),
        ({"channel_mask_length": 0}, "channel_mask_length at least 1"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        Data2VecSpeechCTC(speech_backbone(), **{"vocabulary": VOCABULARY, **arguments})


@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="PyTorch is not installed: pip install torch",
)
def test_it_trains_and_gives_the_same_numbers_on_keras_torch_backend(tmp_path):
    model = ctc_model()
    inputs, labels = batch()
    model.save_to_preset(str(tmp_path / "preset"))
    model.compile("sgd", jit_compile=False)
    loss = model.evaluate(inputs, labels, verbose=0, return_dict=True)["loss"]
    np.savez(tmp_path / "batch.npz", labels=labels, logits=model(inputs), loss=loss, **inputs)
    script = """
        import sys
        import keras, numpy as np
        assert keras.backend.backend() == "torch"
        from d2v_tf.finetuning.ctc import Data2VecSpeechCTC
        from d2v_tf.finetuning.decoding import greedy_ids

        model = Data2VecSpeechCTC.from_preset(sys.argv[1] + "/preset")
        data = np.load(sys.argv[1] + "/batch.npz")
        inputs = {"waveform": data["waveform"], "padding_mask": data["padding_mask"]}
        logits = keras.ops.convert_to_numpy(model(inputs))
        np.testing.assert_allclose(logits, data["logits"], atol=1e-4)
        model.compile(keras.optimizers.Adam(0.01))
        logs = model.evaluate(inputs, data["labels"], verbose=0, return_dict=True)
        np.testing.assert_allclose(logs["loss"], data["loss"], rtol=1e-4)
        history = model.fit(inputs, data["labels"], epochs=8, verbose=0).history["loss"]
        assert history[-1] < 0.7 * history[0], history
        ids, lengths = greedy_ids(model(inputs), model.frame_lengths(inputs))
        assert tuple(ids.shape) == (3, 30) and tuple(lengths.shape) == (3,)
    """
    run_script(script, str(tmp_path), KERAS_BACKEND="torch")
