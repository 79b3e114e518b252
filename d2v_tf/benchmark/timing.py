"""Times of functions that take turns, and the machine that they run on: for every benchmark."""

import os
import platform
import time

import numpy as np
import tensorflow as tf

# Calls before the clock starts: the first compiles, the second may still allocate.
WARM_UP = 2


def time_in_turns(functions, repeats, clock=time.perf_counter):
    """Seconds of every call of functions that take turns: dict, name -> list."""
    seconds = {name: [] for name in functions}
    for turn in range(WARM_UP + repeats):
        for name, function in functions.items():
            began = clock()
            wait_for(function())
            if turn >= WARM_UP:
                seconds[name].append(clock() - began)
    return seconds


def wait_for(result):
    """Returns once a result is there: a GPU computes it after the call."""
    for value in tf.nest.flatten(result):
        np.asarray(value)


def quartiles(seconds):
    """The median of durations, and the middle half."""
    low, median, high = np.percentile(seconds, [25, 50, 75])
    return {"median": float(median), "low": float(low), "high": float(high)}


def num_cores():
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def num_threads():
    """The threads of one operation of TensorFlow's."""
    threads = tf.config.threading.get_intra_op_parallelism_threads() or num_cores()
    return int(os.environ.get("TF_NUM_INTRAOP_THREADS", threads))


def device_name():
    """The name of the first accelerator, or of the processor."""
    for kind in ("TPU", "GPU"):
        for device in tf.config.list_physical_devices(kind):
            details = tf.config.experimental.get_device_details(device)
            return details.get("device_name", device.name)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return (
                next(line for line in file if line.startswith("model name")).split(": ")[1].strip()
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
