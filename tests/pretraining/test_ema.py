import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose

from d2v_tf.pretraining.ema import ema_decay, update_teacher


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.9), (1, 0.901), (50, 0.95), (99, 0.999), (100, 1.0), (101, 1.0), (10**6, 1.0)],
)
def test_decay_rises_linearly_and_stays(step, expected):
    assert_allclose(ema_decay(step, 0.9, 1.0, 100), expected, rtol=1e-6)


def test_decay_may_fall_or_be_constant():
    assert_allclose(ema_decay(5, 1.0, 0.5, 10), 0.75)
    for step in (0, 3, 10**6):
        assert_allclose(ema_decay(step, 0.9998, 0.9998, 10), 0.9998, rtol=1e-6)


def test_no_annealing_steps_mean_the_last_decay_from_the_start():
    assert_allclose(ema_decay(0, 0.5, 0.9998, 0), 0.9998, rtol=1e-6)


def test_decay_reads_an_integer_variable():
    step = keras.Variable(25, dtype="int64", trainable=False)
    assert_allclose(ema_decay(step, 0.0, 1.0, 100), 0.25)


def test_update_equals_the_arithmetic_over_several_updates():
    rng = np.random.default_rng(0)
    teacher = [keras.Variable(rng.normal(size=(3, 2))), keras.Variable(rng.normal(size=4))]
    student = [keras.Variable(x.numpy()) for x in teacher]
    expected = [x.numpy().astype("float64") for x in teacher]
    for decay in (0.9, 0.99, 0.0, 0.999, 0.9999):
        for i, variable in enumerate(student):
            variable.assign(rng.normal(size=variable.shape))
            expected[i] = decay * expected[i] + (1 - decay) * variable.numpy()
        update_teacher(teacher, student, np.float32(decay))
        for got, numbers in zip(teacher, expected, strict=True):
            assert_allclose(got, numbers, rtol=1e-5, atol=1e-6)


def test_small_steps_are_not_lost_to_rounding():
    """At tau 0.9999 a bfloat16 teacher would not move at all: the EMA is float32."""
    teacher = [keras.Variable(np.ones(3))]
    student = [keras.Variable(np.full(3, 2.0), dtype="bfloat16")]
    for _ in range(100):
        update_teacher(teacher, student, np.float32(0.9999))
    assert_allclose(teacher[0], 2 - 0.9999**100, rtol=1e-5)


def test_a_decay_of_one_freezes_the_teacher_and_a_decay_of_zero_copies_the_student():
    teacher, student = [keras.Variable([1.0, 2.0])], [keras.Variable([5.0, 7.0])]
    update_teacher(teacher, student, np.float32(1.0))
    assert_allclose(teacher[0], [1.0, 2.0])
    update_teacher(teacher, student, np.float32(0.0))
    assert_allclose(teacher[0], [5.0, 7.0])
    assert_allclose(student[0], [5.0, 7.0])


def test_lists_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        update_teacher([keras.Variable([1.0])], [], np.float32(0.5))
