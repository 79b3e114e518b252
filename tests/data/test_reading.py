"""Falling over to another candidate, against the rule written out in Python."""

import types

import numpy as np
import pytest
import tensorflow as tf

from d2v_tf.data import reading
from d2v_tf.data.reading import CHUNK, BadExamples, DataError, read_examples

NUM_RECORDS = 3 * CHUNK + 5


def read_numbers(candidates, is_bad, bad_examples, batch_size=7, **options):
    """Reads records whose candidates are numbers; those in `is_bad` fail."""
    bad = tf.constant(is_bad)

    def load(number):
        return {"name": tf.strings.as_string(number), "number": number}

    def transform(example, position):
        with tf.control_dependencies([tf.debugging.assert_equal(bad[example["number"]], False)]):
            return {"number": tf.identity(example["number"]), "double": 2 * position}

    records = tf.data.Dataset.from_tensor_slices(
        {"position": np.arange(len(candidates)) + 100, "candidates": candidates}
    )
    return read_examples(records, load, transform, bad_examples, batch_size, **options)


def gather(batches):
    batches = list(batches.as_numpy_iterator())
    return {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}


@pytest.mark.parametrize("part", [0.0, 0.05, 0.6])
def test_the_first_good_candidate_answers_at_its_own_position(part):
    rng = np.random.default_rng(0)
    candidates = rng.integers(0, 500, (NUM_RECORDS, 8))
    is_bad = rng.random(500) < part
    is_bad[candidates[:, -1]] = False  # the last resort is always good
    lines = []
    bad = BadExamples("numbers", 500, max_bad=1.0, warn=lines.append)
    rows = gather(read_numbers(candidates, is_bad, bad))
    np.testing.assert_array_equal(rows["position"], np.arange(NUM_RECORDS) + 100)
    np.testing.assert_array_equal(rows["double"], 2 * rows["position"])
    first_good = np.argmin(is_bad[candidates], axis=1)
    np.testing.assert_array_equal(rows["number"], candidates[np.arange(NUM_RECORDS), first_good])
    # Told of each candidate that failed, once, and of no other.
    failed = {str(n) for row, j in zip(candidates, first_good, strict=True) for n in row[:j]}
    assert bad.count == len(failed) == len(lines)
    assert {line.split(" is skipped: ")[0] for line in lines} == failed


def test_batches_have_the_size_asked_for():
    candidates = np.arange(NUM_RECORDS)[:, None]
    bad = BadExamples("numbers", NUM_RECORDS)
    is_bad = np.zeros(NUM_RECORDS, bool)
    batches = read_numbers(candidates, is_bad, bad, batch_size=40)
    assert [len(b["number"]) for b in batches] == [40, 40, NUM_RECORDS - 80]
    batches = read_numbers(candidates, is_bad, bad, batch_size=40, drop_remainder=True)
    assert batches.element_spec["number"].shape == (40,)
    assert len(list(batches)) == 2


def test_a_record_without_other_candidates_is_left_out():
    is_bad = np.zeros(NUM_RECORDS, bool)
    is_bad[: CHUNK + 1] = True  # a whole chunk, and one more
    bad = BadExamples("numbers", NUM_RECORDS, max_bad=1.0, warn=str)
    rows = gather(read_numbers(np.arange(NUM_RECORDS)[:, None], is_bad, bad))
    np.testing.assert_array_equal(rows["number"], np.arange(CHUNK + 1, NUM_RECORDS))
    assert bad.count == CHUNK + 1


@pytest.fixture
def pauses(monkeypatch):
    """The pauses that are made, which take no time."""
    made = []
    monkeypatch.setattr(reading, "time", types.SimpleNamespace(sleep=made.append))
    return made


def test_a_record_whose_every_candidate_fails_is_an_error(pauses):
    candidates = np.array([[0, 1], [2, 3]])
    bad = BadExamples("numbers", 4, max_bad=1.0, warn=str)
    with pytest.raises(tf.errors.OpError):
        gather(read_numbers(candidates, np.array([False, False, True, True]), bad))
    assert isinstance(bad.error, DataError) and "2 of 4 examples of numbers" in str(bad.error)


def test_later_candidates_of_good_records_are_not_read():
    # Were they read, the numbers out of range would fail and be reported.
    candidates = np.stack([np.arange(50), np.full(50, 10**6)], axis=1)
    bad = BadExamples("numbers", 50, max_bad=0.0)
    rows = gather(read_numbers(candidates, np.zeros(50, bool), bad))
    np.testing.assert_array_equal(rows["number"], np.arange(50))
    assert bad.count == 0


def test_over_the_limit_every_report_raises():
    # Several threads may meet the same examples: none of them may go on.
    bad = BadExamples("photos", 10, max_bad=0.1, warn=str)
    bad.report("a.png", "broken")
    with pytest.raises(DataError, match="2 of 10 examples of photos could not be read"):
        bad.report("b.png", "broken")
    with pytest.raises(DataError, match='first: a.png, "broken"'):
        bad.report("a.png", "broken")


def read_three(fails, bad_examples):
    """Reads records 0 to 2, which have 10 to 12 in reserve; `fails` of a number is an error."""

    def read(number):
        error = fails(number)
        if error is not None:
            raise error
        return number

    def load(number):
        number = tf.ensure_shape(tf.numpy_function(read, [number], tf.int64), [])
        return {"name": tf.strings.as_string(number), "number": number}

    def view(example, _):
        two = tf.constant(2, tf.int64)
        with tf.control_dependencies([tf.debugging.assert_none_equal(example["number"], two)]):
            return {"number": tf.identity(example["number"])}

    records = tf.data.Dataset.from_tensor_slices(
        {"position": np.arange(3), "candidates": np.array([[0, 10], [1, 11], [2, 12]])}
    )
    return gather(read_examples(records, load, view, bad_examples, batch_size=3))["number"]


@pytest.mark.parametrize(("moments", "read"), [(1, 1), (2, 1), (3, 11)])
def test_a_file_system_that_fails_for_a_moment_costs_nothing(pauses, moments, read):
    """After a second it is asked again, after five once more; then another example is read."""
    bad = BadExamples("numbers", 3, max_bad=1.0, warn=str)

    def fails(number):
        return OSError("busy") if number == 1 and len(pauses) < moments else None

    numbers = read_three(fails, bad)
    np.testing.assert_array_equal(numbers, [0, read, 12])
    assert pauses == [1.0, 5.0][:moments]
    assert bad.count == 1 + (read == 11)  # 2 is never good


def test_there_is_no_pause_for_what_no_time_mends(pauses):
    """A file that is gone, and one whose content is wrong."""
    bad = BadExamples("numbers", 3, max_bad=1.0, warn=str)
    records = tf.data.Dataset.from_tensors({"position": 0, "candidates": [0, 1]})

    def load(number):
        path = tf.constant(["/nowhere", __file__])[number]
        return {"name": path, "encoded": tf.io.read_file(path)}

    rows = read_examples(
        records, load, lambda x, _: {"size": tf.strings.length(x["encoded"])}, bad, 1
    )
    assert len(gather(rows)["size"]) == bad.count == 1
    np.testing.assert_array_equal(read_three(lambda _: None, bad), [0, 1, 12])
    assert pauses == []


def test_there_is_no_pause_for_a_record_whose_bytes_have_come(pauses):
    bad = BadExamples("records", 3, max_bad=1.0, warn=str)
    records = tf.data.Dataset.from_tensors({"position": 0, "candidates": ["broken", "7"]})

    def load(record):
        return {"name": "a record", "number": tf.strings.to_number(record)}

    rows = read_examples(records, load, lambda x, _: {"number": x["number"]}, bad, 1)
    assert gather(rows)["number"] == [7.0]
    assert bad.count == 1 and pauses == []


def test_without_python_nothing_but_the_report_is_python(monkeypatch):
    called, py_function = [], tf.py_function

    def note(function, *args):
        called.append(function.__name__)
        return py_function(function, *args)

    monkeypatch.setattr(tf, "py_function", note)
    arguments = np.arange(4)[:, None], np.zeros(4, bool), BadExamples("numbers", 4)
    with reading.without_python():
        read_numbers(*arguments)
    assert set(called) == {"report"}
    read_numbers(*arguments)
    assert set(called) == {"report", "pause"}
