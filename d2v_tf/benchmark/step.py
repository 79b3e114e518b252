"""How long a training step takes, and where the time goes."""

import dataclasses
import functools
import os
import platform
import resource
import statistics
import sys
import time

import numpy as np
import tensorflow as tf

from d2v_tf.pretraining.targets import regression_loss
from d2v_tf.training.modalities import modality_of
from d2v_tf.training.precision import resolve_precision, resolve_xla
from d2v_tf.training.pretrain import build_model

# Calls before the clock starts: the first compiles, the second may still allocate.
WARM_UP = 2


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of repeated calls: the median, and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds):
        """The timing of a list of durations in seconds."""
        low, median, high = np.percentile(seconds, [25, 50, 75])
        return cls(float(median), float(low), float(high))


def measure(recipe, steps=20):
    """Measures a recipe's training step, its parts, and its input.

    The step is timed on one batch that is in memory already, then together with the input
    pipeline. The parts are timed as functions that stop earlier, each compiled for itself: the
    frontend; with the teacher and its targets; with the student's forward pass and the loss; with
    all gradients; the whole step. A part is the difference to the function before. All functions
    take turns, so that a disturbance hits all.

    Args:
        recipe: a resolved `Recipe`, whose data can be opened.
        steps: int. How often each is timed.

    Returns:
        dict, what `tools/benchmark.py --json` prints: times in seconds, memory in bytes.
    """
    began = time.perf_counter()
    data = modality_of(recipe).open_data(recipe, warn=functools.partial(print, file=sys.stderr))
    model = build_model(recipe)
    batches = iter(data.batches(0))
    batch = next(batches)
    again = iter(tf.data.Dataset.from_tensors(batch).repeat())
    model.make_train_function()
    train = model.train_function
    _wait_for(train(again))
    first_step = time.perf_counter() - began

    precision = resolve_precision(recipe.precision)
    compiled = resolve_xla(recipe.xla, precision, recipe.model)
    functions = _parts(model, compiled)
    functions["step"] = lambda batch: train(again)
    seconds = _time_in_turns(functions, batch, steps)
    step = Timing.of(seconds["step"])
    with_input = _time_in_turns({"step": lambda _: train(batches)}, None, steps)["step"]
    wall, cpu = _time_input(data, steps)
    examples, positions = batch["mask"].shape
    return {
        "modality": recipe.modality,
        "precision": precision,
        "xla": compiled,
        "device": _device_name(),
        "cores": len(os.sched_getaffinity(0)),
        "parameters": model.student.count_params(),
        "batch": {name: list(value.shape) for name, value in sorted(batch.items())},
        "seconds_to_first_step": first_step,
        "step": dataclasses.asdict(step),
        "step_with_input": dataclasses.asdict(Timing.of(with_input)),
        "examples_per_second": examples / step.median,
        "positions_per_second": examples * positions / step.median,
        "parts": _differences(seconds),
        "input": {
            "examples_per_second": examples / wall,
            "cpu_seconds_per_batch": cpu,
        },
        "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _device_name():
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


def _parts(model, compiled):
    """Functions of a batch that do ever more of a step, by the part that each adds."""
    student = model.student

    def frontend(batch):
        return student.frontend(model._inputs(batch), training=True)["features"]

    def loss(batch):
        predictions, targets, weights, _ = model._masked_regression(batch)
        losses = regression_loss(predictions, targets, model.loss_beta, model.loss_scale)
        return tf.reduce_sum(losses * weights)

    def gradients(batch):
        # Summed, so that none is left out and little is given back.
        return tf.add_n([tf.reduce_sum(g) for g in model._gradients(batch, 1.0)[0]])

    parts = {
        "frontend": frontend,
        "teacher and targets": model.targets,
        "student and loss": loss,
        "backward": gradients,
    }
    return {name: tf.function(part, jit_compile=compiled) for name, part in parts.items()}


def _time_in_turns(functions, batch, repeats):
    """Seconds of every call of functions that take turns: dict, name -> list."""
    seconds = {name: [] for name in functions}
    for turn in range(WARM_UP + repeats):
        for name, function in functions.items():
            began = time.perf_counter()
            _wait_for(function(batch))
            if turn >= WARM_UP:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def _wait_for(result):
    """Returns once a result is there: a GPU computes it after the call."""
    for value in tf.nest.flatten(result):
        value.numpy()


def _differences(seconds):
    """What each part takes of a step, as a part of 1, in the order of `seconds`.

    Differences are taken within a turn, and their median over the turns: what slows the machine
    for a while slows neighbours alike.
    """
    names = ["frontend", "teacher and targets", "student and loss", "backward", "step"]
    labels = [*names[:-1], "optimizer and EMA"]
    whole = statistics.median(seconds["step"])
    before, shares = [0.0] * len(seconds["step"]), {}
    for name, label in zip(names, labels, strict=True):
        shares[label] = (
            statistics.median(a - b for a, b in zip(seconds[name], before, strict=True)) / whole
        )
        before = seconds[name]
    return shares


def _time_input(data, batches):
    """The input on its own: seconds, and seconds of CPU, that a batch takes."""
    iterator = iter(data.batches(0))
    for _ in range(WARM_UP):
        next(iterator)
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(batches):
        next(iterator)
    return (time.perf_counter() - began) / batches, (time.process_time() - cpu) / batches
