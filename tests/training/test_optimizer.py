"""Which weights decay, and how much, against arithmetic done here."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import d2v_tf
from d2v_tf.pretraining.fused_adamw import FusedAdamW
from d2v_tf.schema.common import OptimizerGroup, ScheduleGroup
from d2v_tf.training.optimizer import build_optimizer


class Settings:
    """The part of a recipe that the optimizer reads."""

    steps = 10
    schedule = ScheduleGroup(kind="constant")
    optimizer = OptimizerGroup(learning_rate=0.1, weight_decay=0.5)


def test_only_matrices_decay():
    backbone = d2v_tf.Data2VecVisionBackbone(
        image_shape=(8, 8, 3),
        patch_size=4,
        num_layers=1,
        hidden_dim=8,
        num_heads=2,
        intermediate_dim=16,
        absolute_position=True,
    )
    variables = backbone.trainable_variables
    for variable in variables:
        variable.assign(np.ones(variable.shape, "float32"))
    optimizer = build_optimizer(Settings, variables)
    # With gradients of zero Adam's own step is zero, and what is left is the decay.
    optimizer.apply([np.zeros(v.shape, "float32") for v in variables], variables)
    decayed = {v.path for v in variables if not np.allclose(v, 1.0)}
    assert decayed == {
        "frontend/patch_embedding/kernel",
        "positions/position_embedding",
        "encoder/block_0/attention/qkv_kernel",
        "encoder/block_0/attention/output_dense/kernel",
        "encoder/block_0/intermediate_dense/kernel",
        "encoder/block_0/output_dense/kernel",
        "encoder/block_0/relative_position_bias/table",
    }
    kernel = next(v for v in variables if v.path == "frontend/patch_embedding/kernel")
    np.testing.assert_allclose(kernel, 1 - 0.1 * 0.5, rtol=1e-6)


def test_clipping_is_by_the_norm_of_all_gradients():
    variables = [keras.Variable(np.zeros((2, 2), "float32")) for _ in range(2)]
    group = OptimizerGroup(learning_rate=0.1, global_clipnorm=1.0, epsilon=1e3)
    settings = type("Clipped", (Settings,), {"optimizer": group})
    optimizer = build_optimizer(settings, variables)
    optimizer.apply([np.full((2, 2), 3.0, "float32"), np.full((2, 2), 4.0, "float32")], variables)
    # The norm of all eight numbers, 10, becomes 1. A huge epsilon makes Keras' first Adam step
    # linear in the gradient: rate * gradient * sqrt(1 - beta_2) / epsilon.
    steps = [-0.1 * gradient * np.sqrt(1 - 0.999) / 1e3 for gradient in (0.3, 0.4)]
    for variable, step in zip(variables, steps, strict=True):
        np.testing.assert_allclose(variable, np.full((2, 2), step), rtol=1e-2)


def test_a_recipes_learning_rate_follows_its_schedule():
    settings = type(
        "Warm", (Settings,), {"schedule": ScheduleGroup(kind="cosine", warmup_steps=10)}
    )
    variable = keras.Variable(np.zeros((2, 2), "float32"))
    optimizer = build_optimizer(settings, [variable])
    assert float(optimizer.learning_rate) == pytest.approx(0.01)


def test_updates_are_those_of_keras_adamw():
    """Keras writes its AdamW in small operations; ours has a kernel for all of them."""
    rng = np.random.default_rng(0)
    start = [rng.normal(size=shape).astype("float32") for shape in ((3, 4), (4,))]
    results = []
    options = {"weight_decay": 0.1, "beta_2": 0.98, "epsilon": 1e-6, "global_clipnorm": 1.0}
    for optimizer_class in (FusedAdamW, keras.optimizers.AdamW):
        variables = [keras.Variable(value) for value in start]
        rates = keras.optimizers.schedules.PolynomialDecay(0.1, 5)
        optimizer = optimizer_class(learning_rate=rates, **options)
        optimizer.exclude_from_weight_decay(var_list=variables[1:])
        optimizer.build(variables)
        rng = np.random.default_rng(1)
        for _ in range(5):
            gradients = [rng.normal(size=v.shape).astype("float32") for v in variables]
            optimizer.apply([tf.constant(gradient) for gradient in gradients], variables)
        assert int(optimizer.iterations) == 5
        results.append([v.numpy() for v in [*variables, *optimizer.variables]])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_amsgrad_is_refused():
    with pytest.raises(ValueError, match="no amsgrad"):
        FusedAdamW(amsgrad=True)
