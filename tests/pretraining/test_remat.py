"""What is computed twice gives the same update, dropout and all."""

import keras
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

from tests.pretraining.test_data2vec_speech import speech_batch, speech_model
from tests.pretraining.tiny import sequence_batch, sequence_model, vision_backbone, vision_batch
from tests.pretraining.tiny import vision_model as make_vision_model


def vision_model(**kwargs):
    keras.utils.set_random_seed(0)  # dropout of all models draws the same
    backbone = vision_backbone(
        num_layers=2, dropout=0.4, drop_path_rate=0.5, relative_position_bias="shared"
    )
    return make_vision_model(backbone, **kwargs)


@pytest.mark.parametrize(
    ("build", "batch", "accumulate", "xla"),
    [
        (vision_model, vision_batch, 1, False),
        (vision_model, vision_batch, 2, True),
        (sequence_model, sequence_batch, 2, False),
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
    model = speech_model(rule={"remat": True})
    batch, frontend, shapes = speech_batch(model), model.student.frontend, []
    call = frontend.conv_features
    frontend.conv_features = lambda x: (shapes.append(x.shape), call(x))[1]
    model.compile(keras.optimizers.SGD(0.1))
    model.train_step(batch)
    count, samples = batch["waveform"].shape
    assert shapes == 2 * count * [(1, samples)]
