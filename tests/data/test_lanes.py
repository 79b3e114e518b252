"""The order in which TFRecord files are read, and which of them are opened for it."""

import itertools
import os

import numpy as np
import pytest
import tensorflow as tf

from d2v_tf.data.lanes import choose_block, count_lanes
from d2v_tf.data.records import RecordSource, tfrecord_parts


@pytest.fixture
def write(tmp_path):
    """Writes files of so many records each, `FILE:NUMBER`; returns their source."""

    def write(*sizes):
        for i, size in enumerate(sizes):
            with tf.io.TFRecordWriter(f"{tmp_path}/{i:03}") as writer:
                for number in range(size):
                    writer.write(f"{i}:{number}".encode())
        return RecordSource("records", tfrecord_parts(f"{tmp_path}/*"), parse=None)

    return write


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("d2v_tf.data.lanes.SHUFFLE_BLOCK", 32)


def read(source, count, start=0, **sharding):
    """(positions, candidates) of so many records."""
    records = source.records(start, 7, **sharding).take(count).as_numpy_iterator()
    read = [(int(r["position"]), tuple(r["candidates"])) for r in records]
    return read


UNEVEN = (9, 0, 4, 11, 1, 7, 30, 2, 5, 8, 8, 3, 6, 12, 0, 10, 1, 13)


@pytest.mark.parametrize("sizes", [UNEVEN, (50,), (20, 21), (1,) * 40, (3, 4, 4, 4, 4), (1, 1)])
def test_an_epoch_has_every_record_once_with_others_to_replace_it(write, sizes):
    source, size = write(*sizes), sum(sizes)
    records = read(source, 2 * size)
    assert [position for position, _ in records] == list(range(2 * size))
    first, second = ([c for _, c in records[i : i + size]] for i in (0, size))
    everything = {f"{i}:{n}".encode() for i, count in enumerate(sizes) for n in range(count)}
    for epoch in (first, second):
        assert len(epoch) == len(everything) and {c[0] for c in epoch} == everything
    if size > 4:
        assert [c[0] for c in first] != [c[0] for c in second]
        assert all(len(set(c)) == 3 for c in first)


@pytest.mark.parametrize("workers", [2, 3, 4, 6])
def test_workers_have_the_rows_of_one_wherever_they_start(write, workers):
    source, size = write(*UNEVEN), sum(UNEVEN)
    whole = read(source, 3 * size)
    for start in (0, workers, size - 1, size, 2 * size - 3 * workers):
        parts = [
            read(source, size // workers, start, num_shards=workers, shard=shard)
            for shard in range(workers)
        ]
        taken = list(itertools.chain(*zip(*parts, strict=True)))
        assert taken == whole[start : start + len(taken)]


def test_unshuffled_records_are_in_the_order_of_the_files(write):
    source = write(3, 0, 2, 5)
    names = [c[0].decode() for _, c in read(source, 10, shuffle=False)]
    assert names == ["0:0", "0:1", "0:2", "2:0", "2:1", "3:0", "3:1", "3:2", "3:3", "3:4"]


def needed_files(source, read_some):
    """How many files cannot be missing."""
    needed = 0
    for path, _, _ in source.parts:
        os.rename(path, f"{path}.away")
        try:
            read_some()
        except tf.errors.NotFoundError:
            needed += 1
        os.rename(f"{path}.away", path)
    return needed


def test_a_worker_opens_few_files_of_the_others(write):
    source = write(*[10] * 16)  # 8 lanes of two files each
    for workers, most in ((1, 16), (2, 8), (4, 4)):
        share = 160 // workers
        needed = needed_files(
            source, lambda n=share, w=workers: read(source, n, num_shards=w, shard=1 % w)
        )
        assert needed == most


def test_a_start_in_the_middle_of_an_epoch_opens_few_of_the_files_before_it(write):
    source = write(*[10] * 32)  # 16 lanes of two files each
    assert needed_files(source, lambda: read(source, 160, 160)) == 16


def test_neighbors_in_a_file_are_far_apart_in_an_epoch(write):
    names = [c[0] for _, c in read(write(*[16] * 64), 1024)]
    files = np.array([int(name.split(b":")[0]) for name in names])
    # 32 lanes are read in turn: of 32 records that come one after another, nearly all are of
    # different files.
    distinct = [len(set(files[i : i + 32])) for i in range(0, 1024, 32)]
    assert min(distinct) >= 31


@pytest.mark.parametrize(
    ("num_files", "num_examples", "lanes"),
    [
        (1, 10**6, 1),
        (3, 10**6, 2),
        (17, 10**6, 16),
        (100, 10**6, 32),
        (999, 10**6, 64),
        (40, 40, 8),
    ],
)
def test_lanes_are_a_power_of_2_and_those_of_many_files_have_two(num_files, num_examples, lanes):
    assert count_lanes(num_files, num_examples) == lanes


def test_no_block_is_too_small_to_replace_a_bad_record():
    for lanes, size in itertools.product((1, 2, 4, 8), range(100, 600)):
        block = choose_block(lanes, size, 64 // lanes)
        for records in {size // lanes, -(-size // lanes)}:
            assert records % block == 0 or records % block > 2, (lanes, size, block)
