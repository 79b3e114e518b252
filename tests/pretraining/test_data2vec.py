"""The whole rule against its reimplementation in NumPy, on a tiny vision backbone."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose

from d2v_tf.pretraining.data2vec import Data2Vec
from tests import numpy_reference
from tests.numpy_reference import Weights, randomize
from tests.pretraining.tiny import MASK, step, vision_backbone, vision_batch, vision_model


@pytest.mark.parametrize("target_features", ["ffn", "block"])
@pytest.mark.parametrize(
    ("target_norm", "normalize_average"),
    [("layer", True), ("layer", False), ("instance", False), ("batch", True), (None, True)],
)
def test_targets_equal_numpy(target_features, target_norm, normalize_average):
    model = vision_model(
        target_features=target_features,
        target_norm=target_norm,
        normalize_average=normalize_average,
    )
    batch = vision_batch()
    expected = numpy_reference.vision_targets(model, batch["images"].numpy())
    got = model.targets(batch)
    assert got.shape == (4, 6, 8)
    assert got.dtype == tf.float32
    assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("head_layers", "backbone_kwargs"),
    [
        (1, {}),
        (2, {"absolute_position": True, "relative_position_bias": "shared"}),
        (1, {"final_norm": False, "layer_scale_init_value": None}),
    ],
)
def test_predictions_equal_numpy(head_layers, backbone_kwargs):
    model = vision_model(vision_backbone(**backbone_kwargs), head_layers=head_layers)
    batch = vision_batch()
    expected = numpy_reference.vision_predictions(model, batch["images"].numpy(), MASK)
    got = model.predictions(batch)
    assert got.dtype == tf.float32
    assert_allclose(got, expected, rtol=1e-3, atol=1e-4)
    assert_allclose(model(batch), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "arguments",
    [
        {"loss_beta": 2.0},
        {"loss_beta": 0.0},
        {"loss_beta": 0.5, "loss_scale": 1.0, "target_norm": "instance"},
        {"loss_beta": 0.5, "target_features": "block", "target_norm": None, "head_layers": 2},
    ],
)
def test_logs_of_a_step_equal_numpy(arguments):
    model = vision_model(**arguments)
    batch = vision_batch()
    predictions = numpy_reference.vision_predictions(model, batch["images"].numpy(), MASK)
    targets = numpy_reference.vision_targets(model, batch["images"].numpy())
    errors = np.abs(predictions - targets)[MASK]
    assert (errors > model.loss_beta).any()  # both branches of smooth L1 are at work
    assert model.loss_beta == 0 or (errors < model.loss_beta).any()
    logs = step(model, batch, keras.optimizers.SGD(0.125))
    assert_allclose(
        logs["loss"],
        numpy_reference.masked_loss(predictions, targets, MASK, model.loss_beta, model.loss_scale),
        rtol=1e-4,
    )
    assert_allclose(logs["target_var"], numpy_reference.deviation(targets[MASK]), rtol=1e-3)
    assert_allclose(logs["pred_var"], numpy_reference.deviation(predictions[MASK]), rtol=1e-3)
    assert_allclose(logs["ema_decay"], 0.9, rtol=1e-6)
    assert_allclose(logs["learning_rate"], 0.125)


def test_one_update_equals_finite_differences():
    """Every variable moves down the slope of the loss with the targets held fast.

    The slope is measured along a random direction in each variable, in float64, on the NumPy
    reimplementation: no tape is involved. A gradient that came through the targets as well would
    show in the frontend, class token and position variables.
    """
    model = vision_model(vision_backbone(absolute_position=True), head_layers=2)
    batch = vision_batch()
    images = batch["images"].numpy()
    targets = numpy_reference.vision_targets(model, images)

    def loss(overrides):
        predictions = numpy_reference.vision_predictions(model, images, MASK, Weights(overrides))
        return numpy_reference.masked_loss(predictions, targets, MASK, model.loss_beta)

    rng = np.random.default_rng(0)
    directions, slopes = [], []
    before = [v.numpy().astype("float64") for v in model.trainable_variables]
    for variable, value in zip(model.trainable_variables, before, strict=True):
        direction = rng.normal(size=value.shape)
        direction /= np.linalg.norm(direction)
        forward = loss({id(variable): value + 1e-5 * direction})
        backward = loss({id(variable): value - 1e-5 * direction})
        directions.append(direction)
        slopes.append((forward - backward) / 2e-5)

    step(model, batch, keras.optimizers.SGD(1.0))
    after = [v.numpy().astype("float64") for v in model.trainable_variables]
    moved = [
        np.sum((old - new) * direction)
        for old, new, direction in zip(before, after, directions, strict=True)
    ]
    assert np.count_nonzero(np.abs(slopes) > 1e-4) > 0.9 * len(slopes)
    assert_allclose(moved, slopes, rtol=2e-3, atol=2e-5)


def test_one_update_moves_the_teacher_towards_the_updated_student():
    model = vision_model(ema=(0.9, 0.99, 10))
    before = [v.numpy().astype("float64") for v in model.teacher.weights]
    step(model, vision_batch(), keras.optimizers.SGD(1.0))
    student = [v.numpy() for v in model.student.encoder.weights]
    for new, old, target in zip(model.teacher.weights, before, student, strict=True):
        assert_allclose(new, 0.9 * old + 0.1 * target, rtol=1e-5, atol=1e-6)


def test_the_teacher_follows_the_schedule_over_several_updates():
    model = vision_model(ema=(0.5, 1.0, 2))
    expected = [v.numpy().astype("float64") for v in model.teacher.weights]
    for decay in (0.5, 0.75, 1.0, 1.0):
        logs = step(model, vision_batch(), keras.optimizers.SGD(1.0))
        assert_allclose(logs["ema_decay"], decay)
        for i, variable in enumerate(model.student.encoder.weights):
            expected[i] = decay * expected[i] + (1 - decay) * variable.numpy()
    for got, numbers in zip(model.teacher.weights, expected, strict=True):
        assert_allclose(got, numbers, rtol=1e-4, atol=1e-5)


def test_gradients_reach_no_teacher_weight():
    """With the EMA frozen at tau = 1, an update of any size leaves the teacher bit for bit."""
    model = vision_model(ema=(1.0, 1.0, 0))
    assert model.teacher.trainable_variables == []
    teacher = {id(v) for v in model.teacher.weights}
    assert not teacher & {id(v) for v in model.trainable_variables}
    before = [v.numpy() for v in model.teacher.weights]
    model.compile(keras.optimizers.AdamW(0.1, weight_decay=0.1))
    step(model, vision_batch())
    for new, old in zip(model.teacher.weights, before, strict=True):
        np.testing.assert_array_equal(new, old)


def test_every_part_of_the_student_is_trained():
    model = vision_model(vision_backbone(absolute_position=True), head_layers=2)
    before = {v.path: v.numpy() for v in model.trainable_variables}
    assert len(before) == len(model.trainable_variables)
    step(model, vision_batch(), keras.optimizers.SGD(1.0))
    still = [v.path for v in model.trainable_variables if np.array_equal(v, before[v.path])]
    assert still == []


def test_the_teacher_starts_as_a_copy_of_the_students_encoder_only():
    student = vision_backbone()
    randomize(student.weights)
    model = Data2Vec(student, num_target_layers=2)
    assert len(model.teacher.weights) == len(student.encoder.weights) < len(student.weights)
    for teacher, own in zip(model.teacher.weights, student.encoder.weights, strict=True):
        assert teacher is not own
        np.testing.assert_array_equal(teacher, own)
    randomize(model.teacher.weights, seed=1)
    model.reset_teacher()
    for teacher, own in zip(model.teacher.weights, student.encoder.weights, strict=True):
        np.testing.assert_array_equal(teacher, own)


def test_only_what_the_mask_hides_reaches_the_targets_and_not_the_predictions():
    model, batch = vision_model(), vision_batch()
    pixels = np.repeat(np.repeat(MASK.reshape(4, 2, 3), 4, axis=1), 4, axis=2)
    changed = batch["images"].numpy()
    changed[pixels] += np.random.default_rng(9).normal(size=changed[pixels].shape)
    other = {**batch, "images": tf.constant(changed)}
    np.testing.assert_array_equal(model.predictions(other), model.predictions(batch))
    # Attention spreads the change over each picture's targets.
    change = np.abs(model.targets(other) - model.targets(batch)).max(axis=(1, 2))
    assert (change > 1e-2).all()
    assert step(model, other)["loss"] != step(vision_model(), batch)["loss"]


def test_targets_do_not_depend_on_the_mask():
    model, batch = vision_model(), vision_batch()
    other = {**batch, "mask": ~batch["mask"]}
    np.testing.assert_array_equal(model.targets(other), model.targets(batch))
    assert np.abs(model.predictions(other) - model.predictions(batch)).max() > 1e-2


def test_the_loss_reads_masked_positions_only():
    """Pictures without a masked patch add nothing to the loss, whatever they show."""
    model = vision_model()
    batch = vision_batch()
    mask = MASK & np.array([[True], [False], [True], [False]])
    images = batch["images"].numpy()
    expected = numpy_reference.masked_loss(
        numpy_reference.vision_predictions(model, images, mask),
        numpy_reference.vision_targets(model, images),
        mask,
        model.loss_beta,
    )
    assert_allclose(step(model, {**batch, "mask": tf.constant(mask)})["loss"], expected, rtol=1e-4)


def test_a_batch_without_any_masked_position_changes_nothing_and_stays_finite():
    model = vision_model()
    before = [v.numpy() for v in model.trainable_variables]
    logs = step(model, {**vision_batch(), "mask": tf.zeros((4, 6), tf.bool)})
    assert logs["loss"] == 0
    assert np.isfinite(list(logs.values())).all()
    for new, old in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(new, old)


def test_the_teacher_is_deterministic_and_the_student_is_not_under_dropout():
    model = vision_model(vision_backbone(dropout=0.5, attention_dropout=0.5))
    batch = vision_batch()
    np.testing.assert_array_equal(model.targets(batch), model.targets(batch))
    first = model.predictions(batch, training=True)
    assert np.abs(first - model.predictions(batch, training=True)).max() > 1e-3
    # The step itself: target_var is the targets' and repeats, pred_var does not.
    model.compile(keras.optimizers.SGD(0.0))
    randomize(model.student.weights)
    model.reset_teacher()
    logs = [step(model, batch) for _ in range(2)]
    assert_allclose(logs[0]["target_var"], logs[1]["target_var"], rtol=1e-5)
    assert abs(logs[0]["pred_var"] - logs[1]["pred_var"]) > 1e-4


def test_stochastic_depth_is_active_in_the_student_only():
    model = vision_model(vision_backbone(drop_path_rate=0.9), ema=(1.0, 1.0, 0))
    model.compile(keras.optimizers.SGD(0.0))
    logs = [step(model, vision_batch()) for _ in range(2)]
    assert logs[0]["target_var"] == logs[1]["target_var"]
    assert abs(logs[0]["pred_var"] - logs[1]["pred_var"]) > 1e-4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_target_layers": 4}, "num_target_layers must be between 1 and .* 3 blocks.*: 4"),
        ({"num_target_layers": 0}, "num_target_layers must be between 1 and .* 3 blocks.*: 0"),
        ({"target_features": "fnn"}, "target_features must be one of .*'ffn'.*'fnn'"),
        ({"target_norm": "layr"}, "target_norm must be one of .*'layer'.*'layr'"),
        ({"head_layers": 3}, "head_layers must be 1 or 2. Received: 3"),
        ({"loss_beta": -1.0}, "loss_beta must be at least 0. Received: -1.0"),
        ({"ema": (0.9, 1.1, 10)}, r"taus in \[0, 1\]. Received: \(0.9, 1.1, 10\)"),
        ({"ema": (-0.1, 1.0, 10)}, r"taus in \[0, 1\]"),
        ({"ema": (0.9, 1.0, -1)}, "ema must be"),
    ],
)
def test_errors_name_the_argument_and_the_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        Data2Vec(vision_backbone(), **{"num_target_layers": 2, **arguments})
