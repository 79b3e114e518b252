"""The guard stops runs that cannot get well, and only those."""

import pytest

from d2v_tf.schema.common import GuardGroup
from d2v_tf.training.guard import HealthGuard, RunStopped

GUARD = GuardGroup(after_steps=10, min_target_var=0.1, min_pred_var=0.01, min_frontend_var=0.02)
HEALTHY = {"loss": 1.0, "target_var": 0.9, "pred_var": 0.5, "frontend_var": 0.3}


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run(loss):
    guard = HealthGuard(start=100, guard=GUARD)
    with pytest.raises(RunStopped, match=r"loss is (nan|inf) at step 103.*learning_rate"):
        guard.on_train_batch_end(2, {**HEALTHY, "loss": loss})


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("target_var", 0.09, "target"),
        ("pred_var", 0.009, "prediction"),
        ("frontend_var", 0.019, "features from the frontend"),
    ],
)
def test_collapse_names_what_fell_and_what_to_try(name, value, what):
    guard = HealthGuard(start=0, guard=GUARD)
    with pytest.raises(RunStopped, match=f"Collapse: {name} is {value} at step 11.*same {what}"):
        guard.on_train_batch_end(10, {**HEALTHY, name: value})


def test_low_variances_are_normal_before_after_steps():
    HealthGuard(start=0, guard=GUARD).on_train_batch_end(9, {**HEALTHY, "pred_var": 0.0})


def test_values_at_the_threshold_are_healthy():
    at = {"loss": 1.0, "target_var": 0.1, "pred_var": 0.01, "frontend_var": 0.02}
    HealthGuard(start=1000, guard=GUARD).on_train_batch_end(0, at)
