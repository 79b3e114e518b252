"""The arithmetic of the benchmark."""

import pytest

from d2v_tf.benchmark.step import _differences


def test_parts_are_differences_within_a_turn():
    # In the second turn of three everything took ten times as long.
    seconds = [[1.0, 10.0, 1.0], [3.0, 30.0, 3.0], [4.0, 40.0, 4.0]]
    assert _differences(seconds) == pytest.approx([1 / 4, 2 / 4, 1 / 4])
