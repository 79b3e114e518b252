"""What is computed twice gives the same update, dropout and all."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

from d2v_tf.pretraining.remat import rematerialized_one_by_one
from tests.pretraining import test_data2vec_speech as speech
from tests.pretraining.tiny import sequence_batch, sequence_model, vision_backbone, vision_batch
from tests.pretraining.tiny import vision_model as make_vision_model


def vision_model(**kwargs):
    keras.utils.set_random_seed(0)  # dropout of all models draws the same
    backbone = vision_backbone(
        num_layers=2, dropout=0.4, drop_path_rate=0.5, relative_position_bias="shared"
    )
    return make_vision_model(backbone, **kwargs)


def make_speech(**rule):
    return speech.speech_model(rule=rule)


def speech_batch():
    return speech.speech_batch(make_speech())


@pytest.mark.parametrize(
    ("build", "batch", "accumulate", "xla"),
    [
        (vision_model, vision_batch, 1, False),
        (vision_model, vision_batch, 2, True),
        (sequence_model, sequence_batch, 2, False),
        (make_speech, speech_batch, 1, False),
        (make_speech, speech_batch, 3, True),
        (functools.partial(make_speech, compile_parts=True), speech_batch, 1, False),
    ],
)
def test_an_update_is_the_same(build, batch, accumulate, xla):
    models = []
    for remat in (False, True):
        model = build(remat=remat, accumulate=accumulate)
        model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
        step = tf.function(model.train_step, jit_compile=xla)
        logs = [step(batch())["loss"].numpy() for _ in range(2)]
        models.append((model, logs))
    (model, logs), (other, expected) = models
    assert_allclose(logs, expected, rtol=1e-5)
    for one, two in zip(model.weights, other.weights, strict=True):
        compare = assert_array_equal if "seed" in one.path else assert_allclose
        compare(one.numpy(), two.numpy(), **({} if "seed" in one.path else {"atol": 1e-5}))


def test_blocks_are_run_again_for_the_gradient():
    model = vision_model(remat=True)
    calls = []
    block = model.student.encoder.blocks[0]
    call = block.attention.call
    block.attention.call = lambda *a, **k: (calls.append(k.get("training")), call(*a, **k))[1]
    model.compile(keras.optimizers.SGD(0.1))
    model.train_step(vision_batch())
    assert calls == [True, True]


def test_convolutions_over_waveforms_are_run_for_one_example_at_a_time_and_again():
    model = make_speech(remat=True)
    batch, frontend, shapes = speech_batch(), model.student.frontend, []
    call = frontend.conv_features
    frontend.conv_features = lambda x: (shapes.append(x.shape), call(x))[1]
    model.compile(keras.optimizers.SGD(0.1))
    graph = tf.function(model.train_step).get_concrete_function(batch).graph
    assert shapes == 2 * [(1, batch["waveform"].shape[1])]
    loops = [op for op in graph.get_operations() if op.type in ("While", "StatelessWhile")]
    assert [loop.get_attr("parallel_iterations") for loop in loops] == [1, 1]


def test_gradients_of_examples_in_bfloat16_are_added_up_in_float32():
    """So they are without remat, where one product adds them up."""
    layer = keras.layers.Dense(3, use_bias=False, dtype="mixed_bfloat16")
    layer.build((None, 1))
    # 256 + 1 is 256 in bfloat16, however often it is added.
    x = tf.constant([[[256.0]]] + 100 * [[[1.0]]])

    @tf.function
    def gradient():
        with tf.GradientTape() as tape:
            y = tf.reduce_sum(rematerialized_one_by_one(layer, [layer], x))
        return tape.gradient(y, layer.kernel.value)

    assert_array_equal(gradient(), np.full((1, 3), 356.0))
