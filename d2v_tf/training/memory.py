"""How much memory a process has had."""

import resource
import sys

import tensorflow as tf


def peak_memory():
    """The most bytes that this process has had, of the machine and of one of its GPUs.

    Returns:
        dict with `"host"` and, where there are GPUs, `"gpu"`, that of the fullest one.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    memory = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    gpus = range(len(tf.config.get_visible_devices("GPU")))
    if gpus:
        infos = [tf.config.experimental.get_memory_info(f"GPU:{i}") for i in gpus]
        memory["gpu"] = max(info["peak"] for info in infos)
    return memory


def peak_bytes():
    """`peak_memory` as numbers to log."""
    return {f"peak_{name}_bytes": size for name, size in peak_memory().items()}
