"""An error of the input names the file; any other one stays what it is."""

import numpy as np
import pytest
import tensorflow as tf

from d2v_tf.data.input_errors import explain_input
from d2v_tf.data.records import CHECKED_LENGTH, RecordSource, tfrecord_parts

SIZE, PART = 5000, 40
RECORD = CHECKED_LENGTH + SIZE + 4


@pytest.fixture
def shards(tmp_path):
    """Three files of forty records of one size each, as packed texts are."""
    rng = np.random.default_rng(0)
    for part in range(3):
        with tf.io.TFRecordWriter(str(tmp_path / f"{part}.tfrecord")) as writer:
            for _ in range(PART):
                writer.write(rng.bytes(SIZE))
    return tmp_path


def open_source(shards):
    return RecordSource(f"tfrecord:{shards}", tfrecord_parts(f"{shards}/*"), parse=None)


def failure(source, in_graph, meanwhile=lambda: None):
    """The error of three epochs, as fit and the probes read them."""
    iterator = iter(source.records(0, seed=0, shuffle=False).batch(4))
    following = tf.function(lambda: next(iterator)) if in_graph else lambda: next(iterator)
    with pytest.raises(tf.errors.OpError) as caught:
        for number in range(3 * 3 * PART // 4):
            following()
            if number == 3:
                meanwhile()
    return caught.value


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("in_graph", [True, False])
@pytest.mark.parametrize("position", [9 * RECORD + 300, 9 * RECORD + 9, 10 * RECORD - 1])
def test_the_corrupt_one_of_several_files_is_named(shards, in_graph, position):
    """Where the content, the length's checksum and the content's are wrong."""
    source = open_source(shards)
    flip(shards / "1.tfrecord", position)
    error = explain_input(failure(source, in_graph), [source])
    assert str(error).startswith(f"data: {shards}/1.tfrecord is corrupt: corrupted record at ")
    assert str(error).endswith(". Put a good copy in its place, and the same command goes on.")


def test_a_file_that_became_shorter_is_named(shards):
    source = open_source(shards)
    path = shards / "2.tfrecord"
    path.write_bytes(path.read_bytes()[: 9 * RECORD + 300])
    error = explain_input(failure(source, in_graph=True), [source])
    assert str(error).startswith(f"data: {path} is corrupt: truncated record at {9 * RECORD}")


@pytest.mark.parametrize("in_graph", [True, False])
def test_a_file_that_is_gone_in_the_middle_of_a_run_is_named(shards, in_graph):
    source = open_source(shards)
    error = explain_input(failure(source, in_graph, (shards / "2.tfrecord").unlink), [source])
    assert str(error) == (
        f"data: tfrecord:{shards} cannot be read: {shards}/2.tfrecord; No such file or directory. "
        "Where that is put right, the same command goes on."
    )


def test_the_two_errors_of_several_devices_are_told_apart():
    message = (
        "Graph execution error:\n\nDetected at node MultiDeviceIteratorGetNextFromShard defined at "
        "(most recent call last):\n<stack traces unavailable>\n2 root error(s) found.\n  (0) "
        "UNKNOWN:  /data/2.tfrecord; Input/output error\n\t [[{{node "
        "MultiDeviceIteratorGetNextFromShard}}]]\n\t [[RemoteCall]]\n\t [[IteratorGetNext]]\n  (1) "
        "CANCELLED:  Operation was cancelled\n\t [[{{node sgd/CollectiveReduceV2_1}}]]\n0 successfu"
    )
    source = RecordSource("tfrecord:/data", [], parse=None)
    error = explain_input(tf.errors.UnknownError(None, None, message), [source, source])
    assert "tfrecord:/data cannot be read: /data/2.tfrecord; Input/output error. " in str(error)


def test_what_is_no_fault_of_the_input_stays_an_error():
    def broken(_):
        raise KeyError("a mistake in Python")

    numbers = tf.data.Dataset.range(3)
    mistakes = [
        numbers.map(lambda x: tf.numpy_function(broken, [x], tf.int64)),
        numbers.map(lambda x: tf.debugging.check_numerics(tf.cast(x, tf.float32) + np.nan, "nan")),
    ]
    for dataset in mistakes:
        with pytest.raises(tf.errors.OpError) as caught:
            next(iter(dataset))
        assert explain_input(caught.value, []) is None
    lost = (
        "Collective ops is aborted by: Connection reset by peer\n\t [[{{node CollectiveReduceV2}}]]"
    )
    assert explain_input(tf.errors.UnavailableError(None, None, lost), []) is None
