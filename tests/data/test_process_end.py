"""A process whose input pipeline is still calling Python ends, whatever holds the iterator."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys, time, weakref
import tensorflow as tf
import d2v_tf

def slow(x):
    time.sleep(0.5)
    return x

def read(x):
    return tf.ensure_shape(tf.py_function(slow, [x], tf.int64), [])

def fail(dataset):
    iterator = iter(dataset)
    next(iterator)
    tf.function(lambda: next(iterator))()
    try:
        raise ValueError("the cause")
    except ValueError as error:
        cause = error  # a cycle of traceback and frame, which Python's last collection frees
        raise RuntimeError("the end") from None

how, *what = sys.argv[1:]
if "replicas" in what:
    cpus, one = tf.config.list_physical_devices("CPU"), tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpus[0], [one, one])
dataset = tf.data.Dataset.range(100).map(read, num_parallel_calls=2).prefetch(2)
if "replicas" in what:
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    dataset = strategy.experimental_distribute_dataset(dataset.batch(2))
if "others" in what:
    ragged = iter(tf.data.Dataset.range(4).ragged_batch(2))
    closed = iter(tf.data.Dataset.range(4))
    closed._dataset = None  # as if nothing could be done about it
    dead = weakref.proxy(type("Thing", (), {})())
if how == "uncaught":
    fail(dataset)
try:
    fail(dataset)
except RuntimeError:
    sys.exit(3)
"""


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["caught", "others"], 3), (["uncaught"], 1), (["caught", "replicas"], 3)],
)
def test_a_process_ends_while_its_input_calls_python(arguments, status):
    command = [sys.executable, "-c", SCRIPT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stderr
    assert "atexit" not in done.stderr
    if status == 1:
        assert done.stderr.rstrip().endswith("RuntimeError: the end")
