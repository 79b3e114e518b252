"""The order of an epoch: everything once, and nothing in common with other epochs' orders."""

import numpy as np
import pytest
import tensorflow as tf

from d2v_tf.data.indexed import shuffled
from d2v_tf.data.records import RecordSource


def orders(seed, num_epochs, num_examples):
    """int `[num_epochs, num_examples]`."""
    positions = tf.data.Dataset.range(num_epochs * num_examples)
    drawn = positions.map(
        lambda p: shuffled(p % num_examples, p // num_examples, seed, num_examples)
    )
    batches = drawn.batch(10_000).as_numpy_iterator()
    return np.concatenate(list(batches)).reshape(num_epochs, num_examples)


@pytest.mark.parametrize("num_examples", [1, 2, 37, 1438])
@pytest.mark.parametrize("seed", [0, 2**31 + 5])
def test_every_epoch_has_everything_once(seed, num_examples):
    for order in orders(seed, 4, num_examples):
        assert sorted(order) == list(range(num_examples))


def test_orders_of_epochs_and_seeds_have_nothing_to_do_with_each_other():
    # Enough examples to see it: with TensorFlow's own 4 rounds and seed [seed, epoch], successive
    # epochs correlate by 0.68 at this size, and by less than chance shows at a few thousand.
    size = 45_000
    several = [np.arange(size), *orders(0, 3, size), *orders(1, 1, size)]
    correlations = np.corrcoef(several) - np.eye(len(several))
    assert np.abs(correlations).max() < 5 / np.sqrt(size)


def test_a_small_set_is_shuffled_too():
    size, epochs = 10, 2_000
    first = orders(0, epochs, size)[:, 0]
    counts = np.bincount(first, minlength=size)
    # Any example comes first equally often.
    chi_squared = ((counts - epochs / size) ** 2 / (epochs / size)).sum()
    assert chi_squared < 27.9  # 9 degrees of freedom, p = 0.001


@pytest.fixture
def records(tmp_path):
    """40 files of a record each."""
    parts = [(str(tmp_path / f"{i}"), 0, 1) for i in range(40)]
    for path, _, _ in parts:
        with tf.io.TFRecordWriter(path) as writer:
            writer.write(path.encode())
    return RecordSource("records", parts, parse=None)


def test_files_of_records_are_in_an_order_of_epoch_and_whole_seed(records, monkeypatch):
    monkeypatch.setattr("d2v_tf.data.lanes.SHUFFLE_BLOCK", 1)  # only files are shuffled
    several = []
    for seed in (0, 5, 2**31 + 5, 2**32 + 5, 2**62):
        drawn = records.records(0, seed).take(80).as_numpy_iterator()
        names = [record["candidates"][0] for record in drawn]
        assert sorted(names[:40]) == sorted(names[40:]) == sorted(set(names))
        several += [tuple(names[:40]), tuple(names[40:])]
    assert len(set(several)) == 10
