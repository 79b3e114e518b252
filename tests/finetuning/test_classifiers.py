"""The classifiers as a Keras user meets them."""

import os
import subprocess
import sys

import keras
import keras_hub
import numpy as np
import pytest

import d2v_tf
from d2v_tf.finetuning.pooling import FrameMean
from tests.interop.tiny import make_backbone, make_inputs

CLASSIFIERS = {
    "vision_per_block": (d2v_tf.Data2VecImageClassifier, keras_hub.models.ImageClassifier),
    "speech": (d2v_tf.Data2VecAudioClassifier, d2v_tf.Data2VecAudioClassifier),
    "text": (d2v_tf.Data2VecTextClassifier, keras_hub.models.TextClassifier),
}


def make_classifier(name, **arguments):
    task_class = CLASSIFIERS[name][0]
    keras.utils.set_random_seed(0)
    return task_class(make_backbone(name), **{"num_classes": 3, **arguments})


def predict(task, inputs):
    return keras.ops.convert_to_numpy(task(inputs))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_preset_keeps_head_names_and_backbone(name, tmp_path):
    task = make_classifier(name, class_names=["cat", "dog", "fish"], dropout=0.1)
    inputs = make_inputs(task.backbone)
    expected = predict(task, inputs)
    assert expected.shape == (2, 3) and expected.dtype == "float32"
    task.save_to_preset(str(tmp_path))
    again = CLASSIFIERS[name][1].from_preset(str(tmp_path))
    assert type(again) is type(task)
    assert again.class_names == ("cat", "dog", "fish") and again.dropout == 0.1
    np.testing.assert_array_equal(predict(again, inputs), expected)
    # It is a backbone's preset still.
    backbone = d2v_tf.load_backbone(tmp_path, verbose=False)
    np.testing.assert_array_equal(np.asarray(backbone(inputs)), np.asarray(task.backbone(inputs)))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_few_examples_are_learned_by_fit_alone(name):
    task = make_classifier(name)
    one = make_inputs(task.backbone)
    task.compile(keras.optimizers.Adam(0.01))
    labels = np.array([2, 0])
    task.fit(one, labels, epochs=100, shuffle=False, verbose=0)
    assert (predict(task, one).argmax(axis=1) == labels).all()


def test_a_text_may_be_the_mean_of_its_tokens(tmp_path):
    task = make_classifier("text", pooling="mean")
    inputs = make_inputs(task.backbone)
    real = np.asarray(inputs["padding_mask"]).astype("float32")[..., None]
    assert 0 < real.mean() < 1
    hidden = np.asarray(task.backbone(inputs))
    mean = (hidden * real).sum(axis=1) / real.sum(axis=1)
    expected = np.asarray(task.output_dense(task.pooled_dense(mean)))
    np.testing.assert_allclose(predict(task, inputs), expected, atol=1e-5)
    task.save_to_preset(str(tmp_path / "preset"))
    again = d2v_tf.load_task(tmp_path / "preset", verbose=False)
    np.testing.assert_array_equal(predict(again, inputs), predict(task, inputs))
    with pytest.raises(ValueError, match="pooling must be one of"):
        make_classifier("text", pooling="max")


def test_several_labels_an_example():
    task = make_classifier("speech", multi_label=True)
    inputs = make_inputs(task.backbone)
    task.compile(keras.optimizers.Adam(0.003))
    labels = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    task.fit(inputs, labels, epochs=60, shuffle=False, verbose=0)
    assert ((predict(task, inputs) > 0) == labels).all()


def test_a_regression_is_the_squared_error():
    task = make_classifier("text", num_classes=1)
    inputs = make_inputs(task.backbone)
    values = np.array([[0.5], [2.0]])
    expected = np.mean((predict(task, inputs) - values) ** 2)
    loss = task.evaluate(inputs, values, verbose=0)[0]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["speech_invariant", "text"])
def test_padding_does_not_change_the_logits(name):
    task_class = CLASSIFIERS[name.removesuffix("_invariant")][0]
    task = task_class(make_backbone(name), num_classes=3)
    inputs = make_inputs(task.backbone)
    length = int(inputs["padding_mask"][1].sum())
    alone = {key: value[1:, :length] for key, value in inputs.items()}
    np.testing.assert_allclose(predict(task, inputs)[1:], predict(task, alone), atol=2e-5)
    del alone["padding_mask"]
    np.testing.assert_allclose(predict(task, inputs)[1:], predict(task, alone), atol=2e-5)


def test_the_mean_of_frames_leaves_out_padding_and_survives_no_frame():
    pool = FrameMean((10, 3, 2), (5, 2, 2))
    rng = np.random.default_rng(0)
    frames = rng.normal(size=(3, 24, 4)).astype("float32")
    padding_mask = np.arange(500) < np.array([[500], [260], [5]])
    got = np.asarray(pool(frames, padding_mask))
    # 260 samples: 51 of the first convolution, 25 of the second, 12 of the third.
    expected = [frames[0].mean(axis=0), frames[1, :12].mean(axis=0), np.zeros(4)]
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_the_mean_of_patches_leaves_out_the_class_token():
    task = make_classifier("vision_per_block")
    hidden = np.asarray(task.backbone(make_inputs(task.backbone)))
    pooled = np.asarray(task.pooler(hidden))
    np.testing.assert_allclose(pooled, hidden[:, 1:].mean(axis=1), atol=1e-5)


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "a"]])
def test_names_that_are_not_one_a_class(names):
    with pytest.raises(ValueError, match="class_names must be 3 different names"):
        make_classifier("text", class_names=names)


def test_another_pooling():
    with pytest.raises(ValueError, match="pooling must be one of .* 'max'"):
        make_classifier("vision_per_block", pooling="max")


PROGRAM = """
import numpy as np, keras, d2v_tf
from tests.finetuning.test_classifiers import CLASSIFIERS, make_classifier, predict
from tests.interop.tiny import make_inputs
assert keras.backend.backend() == "torch"
for name in CLASSIFIERS:
    task = make_classifier(name)
    inputs = make_inputs(task.backbone)
    task.fit(inputs, np.array([2, 0]), epochs=1, verbose=0)
    assert np.isfinite(keras.ops.convert_to_numpy(task(inputs))).all()
print("trained")
"""


def test_they_train_on_another_backend():
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "trained", done.stderr
