"""How long a training step takes, and where the time goes."""

import functools
import statistics
import sys
import time

import tensorflow as tf

from d2v_tf.benchmark.timing import (
    WARM_UP,
    device_name,
    num_cores,
    quartiles,
    time_in_turns,
    wait_for,
)
from d2v_tf.errors import UserError
from d2v_tf.pretraining.targets import regression_loss
from d2v_tf.training.memory import peak_memory
from d2v_tf.training.modalities import modality_of
from d2v_tf.training.model import build_model
from d2v_tf.training.precision import resolve_precision, resolve_xla

PARTS = ("frontend", "teacher and targets", "student and loss", "backward", "optimizer and EMA")


def measure(recipe, steps=20):
    """Measures a recipe's training step, its parts, and its input.

    The step is timed on one batch that is in memory already, then with batches from the input
    pipeline. The parts are timed as functions that stop earlier, each compiled for itself: the
    frontend; what the targets take; the student's forward pass and the loss, too; all gradients,
    too; the whole step. A part is the difference to the function before. (Text has a frontend for
    the teacher and one for the student: the second is in "student and loss".) All take turns, so
    that a disturbance hits all.

    Args:
        recipe: a resolved `Recipe`, whose data can be opened and has batches of one shape.
        steps: int. How often each is timed.

    Returns:
        dict, what `tools/benchmark.py --json` prints: `xla` as resolved; times in seconds;
        positions, padding counted among them; memory in bytes, up to the end of the first step.

    Raises:
        UserError: for data that cannot be read, and a recipe that is computed in parts.
    """
    check_one_part(recipe)
    began = time.perf_counter()
    warn = functools.partial(print, file=sys.stderr)
    data = modality_of(recipe).open_data(recipe, warn=warn)
    model = build_model(recipe)
    try:
        return _measure(recipe, data, model, steps, began)
    except tf.errors.OpError as error:
        raise data.explain(error) from None


def check_one_part(recipe):
    """Refuses a recipe whose batches are computed in parts."""
    if recipe.accumulate > 1:
        raise UserError(
            f"accumulate: a batch in one part is measured, and it is {recipe.accumulate}. Measure "
            f"one: --set accumulate=1 --batch={recipe.batch_size // recipe.accumulate}."
        )


def _measure(recipe, data, model, steps, began):
    batch = next(iter(data.batches(0)))
    again = iter(tf.data.Dataset.from_tensors(batch).repeat())
    model.make_train_function()
    train = model.train_function
    wait_for(train(again))
    first_step = time.perf_counter() - began
    memory = peak_memory()

    rate, cpu = _time_input(data, steps)
    with_input = _time_with_input(train, data, steps)
    precision = resolve_precision(recipe.precision)
    compiled = resolve_xla(recipe.xla)
    functions = {
        name: functools.partial(function, batch)
        for name, function in _beginnings(model, compiled).items()
    }
    seconds = time_in_turns({**functions, "step": lambda: train(again)}, steps)
    examples, positions = batch["mask"].shape
    step = statistics.median(seconds["step"])
    return {
        "modality": recipe.modality,
        "data": data.name,
        "precision": precision,
        "xla": compiled,
        "device": device_name(),
        "cores": num_cores(),
        "parameters": model.student.count_params(),
        "batch": {name: list(value.shape) for name, value in sorted(batch.items())},
        "seconds_to_first_step": first_step,
        "step": quartiles(seconds["step"]),
        "step_with_input": quartiles(with_input),
        "examples_per_second": examples / step,
        "positions_per_second": examples * positions / step,
        "parts": dict(zip(PARTS, _differences(list(seconds.values())), strict=True)),
        "input": {"examples_per_second": rate, "cpu_seconds_per_batch": cpu},
        "peak_memory": memory,
    }


def _beginnings(model, compiled):
    """Functions of a batch that do ever more of a step, all but the last one."""
    student = model.student

    # Each gives one number back: it costs nothing to fetch, and what it needs nothing of is left
    # out when the function is compiled.
    def frontend(batch):
        return tf.reduce_sum(student.frontend(model._inputs(batch), training=True)["features"])

    def targets(batch):
        return tf.reduce_sum(model._masked_regression(batch)[1])

    def loss(batch):
        predictions, targets, weights, _ = model._masked_regression(batch)
        losses = regression_loss(predictions, targets, model.loss_beta, model.loss_scale)
        return tf.reduce_sum(losses * weights)

    def gradients(batch):
        return tf.add_n([tf.reduce_sum(g) for g in model._gradients(batch, 1.0)[0]])

    def compile_as_in_a_step(function):
        def call(batch):
            with model.part_compilers():
                return function(batch)

        return tf.function(call, jit_compile=compiled is True)

    functions = (frontend, targets, loss, gradients)
    return {function.__name__: compile_as_in_a_step(function) for function in functions}


def _differences(seconds):
    """What each function adds to the one before, as parts of the last one's time.

    Differences are taken within a turn, and their median over the turns: what slows the machine
    for a while slows neighbors alike.

    Args:
        seconds: list of lists, the times of each function, in the same turns.

    Returns:
        list of floats, as many as functions.
    """
    whole = statistics.median(seconds[-1])
    before = [[0.0] * len(seconds[0]), *seconds]
    return [
        statistics.median(b - a for a, b in zip(*pair, strict=True)) / whole
        for pair in zip(before, seconds, strict=False)
    ]


def _time_input(data, batches):
    """The input on its own: examples per second, and seconds of CPU that a batch takes."""
    iterator = iter(data.batches(0))
    for _ in range(WARM_UP):
        next(iterator)
    examples, began, cpu = 0, time.perf_counter(), time.process_time()
    for _ in range(batches):
        examples += len(next(iterator)["mask"])
    rate = examples / (time.perf_counter() - began)
    return rate, (time.process_time() - cpu) / batches


def _time_with_input(train, data, repeats):
    """Seconds of steps that take their batches from the input."""
    batches = iter(data.batches(0))  # gone with this function: it reads ahead
    return time_in_turns({"step": lambda: train(batches)}, repeats)["step"]
