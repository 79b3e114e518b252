"""Which numbers and which compiler a machine is fastest with."""

import functools
import time

import tensorflow as tf

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def has_accelerator():
    """Whether TensorFlow sees a GPU or TPU."""
    return bool(tf.config.get_visible_devices("GPU") or tf.config.get_visible_devices("TPU"))


# A step is not products alone, and casts cost time: less of a gain is none.
LEAST_GAIN = 1.2


def cpu_multiplies_bfloat16():
    """Whether the processor is faster with bfloat16 matrices (Linux on x86; False elsewhere).

    Having the instructions is not enough: of two machines with AVX512_BF16 one gains by them
    (`vision_tiny`, batch 64: 219 images/s in float32 and 336 in bfloat16, as a graph), the other
    multiplies 2048^3 with 316 GFLOP/s in float32 and 173 in bfloat16 (Intel Xeon, 2 cores, TF 2.21,
    2026-11).
    """
    return cpu_has_bfloat16() and bfloat16_gain() >= LEAST_GAIN


@functools.cache  # a run asks more than once, and must get one answer
def bfloat16_gain(rounds=3):
    """How many times as fast as float32 this machine multiplies bfloat16 matrices.

    A gain is what all rounds agree on: beside another process one round may say twice as fast
    where the truth is half. A round takes 0.2 s, and one without a gain is the last.
    """
    gain = time_gain()
    for _ in range(rounds - 1):
        if gain >= LEAST_GAIN:
            gain = min(gain, time_gain())
    return gain


def time_gain(size=1024, repeats=5):
    """One round of `bfloat16_gain`: the best times of both, which take turns."""
    matrices = {t: tf.ones((size, size), t) for t in (tf.float32, tf.bfloat16)}
    best = dict.fromkeys(matrices, float("inf"))
    for turn in range(repeats + 1):
        for dtype, matrix in matrices.items():
            began = time.perf_counter()
            tf.matmul(matrix, matrix).numpy()
            if turn:  # the first call prepares
                best[dtype] = min(best[dtype], time.perf_counter() - began)
    return best[tf.float32] / best[tf.bfloat16]


def cpu_has_bfloat16():
    """Whether the processor lists bfloat16 matrix instructions."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def gpu_multiplies_bfloat16(gpu):
    """Whether a GPU has bfloat16 matrix units: NVIDIA's have them from 8.0 (Ampere) on."""
    capability = tf.config.experimental.get_device_details(gpu).get("compute_capability")
    return capability is not None and capability >= (8, 0)


def resolve_precision(precision, replicas=1):
    """Resolves a recipe's `precision`: `"auto"` is bfloat16 where the hardware multiplies it.

    Several replicas on CPUs have float32: what workers measure, each for itself, may differ.

    Args:
        precision: `"float32"`, `"bfloat16"` or `"auto"`.
        replicas: int. In how many parts an update is computed at the same time.

    Returns:
        `"float32"` or `"bfloat16"`; the weights, the EMA, norms, softmax and loss are float32 in
        both.
    """
    if precision != "auto":
        return precision
    gpus = tf.config.get_visible_devices("GPU")
    if gpus:
        multiplies = all(map(gpu_multiplies_bfloat16, gpus))
    else:
        multiplies = has_accelerator() or (replicas == 1 and cpu_multiplies_bfloat16())
    return "bfloat16" if multiplies else "float32"


def resolve_xla(xla):
    """Resolves a recipe's `xla`: `"auto"` compiles all of a step, or on CPUs parts of it.

    A CPU's graph has the faster matrix products and random numbers, and XLA all else: of the
    recipes that were timed, parts are fastest, but for small speech models without dropout, which
    they cost a tenth (`docs/performance.md`). With a dropout of 0.1 a step takes 2.1 s compiled and
    0.26 s as a graph (4 text blocks of 128, 32 x 64 tokens; TF 2.21, 2026-11).

    Args:
        xla: `True`, `False`, `"parts"` or `"auto"`.

    Returns:
        One of the first three.
    """
    if xla != "auto":
        return xla
    return True if has_accelerator() else "parts"
