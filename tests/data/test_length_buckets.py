"""Batches by length: the plan of an epoch, against what is promised of it."""

import itertools

import numpy as np
import pytest

from d2v_tf.data.length_buckets import BucketPlan, choose_bucket_lengths
from d2v_tf.data.reading import DataError

LENGTHS = np.random.default_rng(0).gamma(3.0, 30.0, size=500).astype(int) + 1  # mean 90
BUCKETS = [50, 100, 200]


def plan(lengths=LENGTHS, **options):
    arguments = {"batch_length": 1000, "min_length": 20, "seed": 0, **options}
    return BucketPlan(lengths, BUCKETS, **arguments)


def epoch(of, number):
    n = of.batches_per_epoch
    return [of.batch(step) for step in range(number * n, (number + 1) * n)]


def test_every_epoch_has_everything_once_and_less_than_a_batch_again():
    of = plan()
    usable = np.flatnonzero(LENGTHS >= 20)
    assert 0 < len(usable) < 500
    orders = []
    for number in range(3):
        drawn = np.concatenate([b.indices for b in epoch(of, number)])
        assert set(drawn) == set(usable)
        counts = np.bincount(drawn, minlength=500)
        assert (counts - 1).clip(0).sum() < of.shapes[-1][0]
        orders.append(drawn.tolist())
    assert orders[0] != orders[1] != orders[2]


def test_an_example_is_in_the_shortest_bucket_that_holds_it_or_left_over_from_it():
    of = plan()
    own = np.searchsorted(BUCKETS, np.minimum(LENGTHS, 200))
    left_over = np.zeros(3, int)
    for batch in epoch(of, 0):
        assert (own[batch.indices] <= batch.bucket).all() or batch.bucket == 2
        for bucket in own[batch.indices]:
            left_over[bucket] += bucket < batch.bucket
    # A bucket leaves over less than a batch, of its own and of what it was left itself.
    assert left_over[0] < 1000 // 50 and left_over[1] < 1000 // 100 + 1000 // 50


def test_shapes_are_few_and_within_the_budget():
    of = plan()
    assert of.shapes == [(20, 50), (10, 100), (5, 200)]
    for batch in epoch(of, 0):
        assert batch.indices.shape == batch.places.shape == (of.shapes[batch.bucket][0],)
        assert (batch.places >= 0).all() and (batch.places < 1).all()
    assert plan(multiple_of=4).shapes == [(20, 50), (8, 100), (4, 200)]
    with pytest.raises(DataError, match="a batch of 1,000 samples is too small for 8 examples"):
        plan(multiple_of=8)


def test_a_batch_depends_on_seed_and_number_alone():
    whole = [plan_.batch(step) for plan_ in [plan()] for step in range(150)]
    assert 150 > 2 * plan().batches_per_epoch
    backwards = plan()
    for step in reversed(range(150)):
        batch = backwards.batch(step)
        assert batch.bucket == whole[step].bucket
        np.testing.assert_array_equal(batch.indices, whole[step].indices)
        np.testing.assert_array_equal(batch.places, whole[step].places)
    other = plan(seed=1).batch(0)
    assert other.indices.tolist() != whole[0].indices.tolist()
    of = plan()
    replacements = of.replacements(3, 1)
    np.testing.assert_array_equal(replacements, plan().replacements(3, 1))
    assert replacements.tolist() != of.replacements(3, 2).tolist()
    assert np.isin(replacements, of.usable).all()


def test_without_shuffle_examples_and_batches_are_in_order():
    batches = epoch(plan(shuffle=False), 0)
    assert [b.bucket for b in batches] == sorted(b.bucket for b in batches)
    first = np.concatenate([b.indices for b in batches if b.bucket == 0])
    assert first.tolist() == sorted(first)


@pytest.mark.parametrize("number", [1, 3, 7])
def test_fewer_examples_than_a_batch_are_drawn_again(number):
    of = BucketPlan(np.full(number, 60), [100], batch_length=1000)
    assert of.batches_per_epoch == 1
    for step in range(3):
        assert set(of.batch(step).indices) == set(range(number))
        assert len(of.batch(step).indices) == 10


def test_padding_is_counted():
    of = BucketPlan(np.array([10, 20, 30, 40]), [20, 40], batch_length=40)
    assert of.shapes == [(2, 20), (1, 40)]
    assert of.padded_part == pytest.approx(1 - 100 / (2 * 20 + 2 * 40))
    cropped = BucketPlan(np.array([100, 200]), [50], batch_length=100)
    assert cropped.padded_part == 0


def test_nothing_long_enough_is_an_error():
    message = "none of the 500 examples has the 9,999 samples needed; the longest has"
    with pytest.raises(DataError, match=message):
        plan(min_length=9999)


@pytest.mark.parametrize("num_buckets", [1, 2, 3])
def test_bucket_lengths_pad_the_least(num_buckets):
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 300, size=60)
    chosen = choose_bucket_lengths(lengths, num_buckets, max_length=200)
    cut = np.minimum(lengths, 200)

    def padded(ends):
        return np.array(ends)[np.searchsorted(ends, cut)].sum()

    grid = range(5, 200, 5)  # a fortieth of 200
    best = min(padded([*ends, 200]) for ends in itertools.combinations(grid, num_buckets - 1))
    assert len(chosen) == num_buckets and chosen[-1] == 200
    assert padded(chosen) == best


def test_no_bucket_is_longer_than_the_longest_example():
    assert choose_bucket_lengths(np.array([10, 41, 62]), 5, max_length=400) == [10, 50, 70]
    assert choose_bucket_lengths(np.array([10]), 3, max_length=400) == [10]
