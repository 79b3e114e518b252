"""The schedules against their definitions, written out for single steps."""

import math

import pytest

from d2v_tf.training.schedules import CosineWithWarmup, LinearWithWarmup, TriStage


def test_cosine_rises_linearly_and_falls_along_half_a_cosine():
    schedule = CosineWithWarmup(peak=2.0, steps=110, warmup_steps=10, final_scale=0.1)
    assert float(schedule(0)) == pytest.approx(0.2)  # the first update is a tenth of the way up
    assert float(schedule(4)) == pytest.approx(1.0)
    assert float(schedule(10)) == pytest.approx(2.0)
    quarter = 2.0 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.25)))
    assert float(schedule(35)) == pytest.approx(quarter, rel=1e-6)
    assert float(schedule(110)) == pytest.approx(0.2)
    assert float(schedule(500)) == pytest.approx(0.2)


def test_cosine_without_warmup_starts_at_the_peak():
    assert float(CosineWithWarmup(peak=3.0, steps=10, warmup_steps=0)(0)) == pytest.approx(3.0)


def test_linear_rises_and_falls_linearly():
    schedule = LinearWithWarmup(peak=2.0, steps=110, warmup_steps=10, final_scale=0.1)
    assert float(schedule(4)) == pytest.approx(1.0)
    assert float(schedule(10)) == pytest.approx(2.0)
    assert float(schedule(35)) == pytest.approx(2.0 * (1 - 0.9 * 0.25))
    assert float(schedule(110)) == float(schedule(500)) == pytest.approx(0.2)


def test_tri_stage_is_linear_then_flat_then_exponential():
    schedule = TriStage(peak=1.0, warmup_steps=30, hold_steps=900, decay_steps=70)
    assert float(schedule(0)) == pytest.approx(0.01)
    assert float(schedule(15)) == pytest.approx(0.01 + 0.99 / 2)
    assert float(schedule(30)) == float(schedule(500)) == float(schedule(930)) == 1.0
    assert float(schedule(965)) == pytest.approx(math.sqrt(0.01), rel=1e-5)
    assert float(schedule(1000)) == float(schedule(5000)) == pytest.approx(0.01, rel=1e-5)


def test_tri_stage_refuses_a_decay_to_nothing():
    with pytest.raises(ValueError, match="final_scale must be above 0.*Received: 0"):
        TriStage(peak=1.0, warmup_steps=1, hold_steps=1, decay_steps=1, final_scale=0)


def test_schedules_come_back_from_their_config():
    for schedule in (
        CosineWithWarmup(1.0, 100, 10, 0.1),
        LinearWithWarmup(1.0, 100, 10, 0.1),
        TriStage(1.0, 3, 4, 5),
    ):
        again = type(schedule).from_config(schedule.get_config())
        assert [float(again(i)) for i in range(12)] == [float(schedule(i)) for i in range(12)]
