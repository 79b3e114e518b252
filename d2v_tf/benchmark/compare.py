"""A training step beside the same work in PyTorch, taking turns in one process."""

import concurrent.futures
import functools
import multiprocessing
import os
import sys
import time

import numpy as np
import tensorflow as tf

from d2v_tf.benchmark.flops import matrix_rate, step_flops
from d2v_tf.benchmark.peer import SETTINGS, PeerStep, import_peer
from d2v_tf.benchmark.step import check_one_part
from d2v_tf.benchmark.timing import (
    device_name,
    num_cores,
    num_threads,
    quartiles,
    time_in_turns,
)
from d2v_tf.errors import UserError
from d2v_tf.pretraining.masked_positions import most_masked
from d2v_tf.schema.common import COMPILERS
from d2v_tf.training.modalities import modality_of
from d2v_tf.training.model import build_model
from d2v_tf.training.precision import has_accelerator

STATUS = "/proc/self/status"

# Ours: precision, and what XLA compiles of the forward and backward pass.
OURS = {
    f"{precision} {name}": (precision, xla)
    for precision in ("float32", "bfloat16")
    for xla, name in COMPILERS.items()
}


def compare(recipe, steps=5, precisions=("float32", "bfloat16"), compilers=tuple(COMPILERS)):
    """Times an update in several settings, ours and PyTorch's, in turns on one batch in memory.

    Both have the same architecture, batch and masks, as many threads, and nothing dropped out:
    dropout is set to 0, as the two would draw it otherwise. Memory is what a process of its own
    takes more, for the model and two updates in the fastest setting; it is known on Linux only.

    Args:
        recipe: a resolved `Recipe`, whose data can be opened and has batches of one shape.
        steps: int. How often each is timed, after two times that do not count.
        precisions: the ones to time.
        compilers: values of a recipe's `xla`, for ours. PyTorch's step is compiled if `True` is one
            of them, and timed as it is if another is.

    Returns:
        dict, what `tools/benchmark.py --peer=torch --json` prints. Times in seconds, rates in
        FLOP/s, memory in bytes; a ratio is PyTorch's time over ours.

    Raises:
        UserError: where PyTorch is not installed, `transformers` has no such architecture, a GPU is
            seen, or the recipe is computed in parts or twice.
    """
    torch, _ = import_peer()
    check_one_part(recipe)
    if recipe.remat:
        raise UserError("remat: what is computed twice is not compared. Give --set remat=false.")
    if has_accelerator():
        raise UserError(
            "--peer compares on the CPU, and TensorFlow sees a GPU. Hide it: CUDA_VISIBLE_DEVICES= "
            "in front of the command."
        )
    threads = num_threads()
    torch.set_num_threads(threads)
    recipe = without_dropout(recipe)
    data = modality_of(recipe).open_data(recipe, warn=functools.partial(print, file=sys.stderr))
    try:
        batch = next(iter(data.batches(0)))
    except tf.errors.OpError as error:
        raise data.explain(error) from None
    rates = {precision: matrix_rate(precision) for precision in precisions}

    functions, first = {}, {}

    def note(side, name):
        print(f"{side}, {name}: {first[side, name]:.1f} s to the first step", file=sys.stderr)

    for name in _chosen(OURS, precisions, compilers):
        began = time.perf_counter()
        model, functions["ours", name] = our_step(recipe, batch, *OURS[name])
        functions["ours", name]()
        first["ours", name] = time.perf_counter() - began
        note("ours", name)
    for name in _chosen(SETTINGS, precisions, {xla is True for xla in compilers}):
        began = time.perf_counter()
        functions["torch", name] = PeerStep(recipe, model.student, as_arrays(batch), name)
        functions["torch", name]()
        first["torch", name] = time.perf_counter() - began
        note("torch", name)
    seconds = time_in_turns(functions, steps)

    shape, masked = batch["mask"].shape, most_masked(batch["mask"], model.max_masked)
    flops = {
        "ours": step_flops(recipe, model.student, shape, masked),
        "torch": step_flops(recipe, model.student, shape, masked, whole_last=True),
    }
    results = []
    for (side, name), values in seconds.items():
        timing = quartiles(values)
        rate = flops[side] / timing["median"]
        results.append(
            {
                "side": side,
                "setting": name,
                "step": timing,
                "seconds_to_first_step": first[side, name],
                "flops_per_second": rate,
                "share_of_matrix_rate": rate / rates[name.split()[0]],
            }
        )
    best = {side: min(_of(results, side), key=_median) for side in ("ours", "torch")}
    memory_ratio = None
    if os.path.exists(STATUS):
        for side, result in best.items():
            result["peak_memory"] = _peak_in_fresh_process(recipe, side, result["setting"], threads)
        memory_ratio = best["ours"]["peak_memory"] / best["torch"]["peak_memory"]
    return {
        "modality": recipe.modality,
        "parameters": model.student.count_params(),
        "device": device_name(),
        "cores": num_cores(),
        "threads": threads,
        "load": os.getloadavg()[0],
        "batch": {name: list(value.shape) for name, value in sorted(batch.items())},
        "flops": flops,
        "matrix_rate": rates,
        "settings": results,
        "ratio": {
            "best against best": _ratio(results),
            **{precision: _ratio(results, precision) for precision in precisions},
        },
        "memory_ratio": memory_ratio,
    }


def _chosen(settings, precisions, compilers):
    return [n for n, (p, compiled) in settings.items() if p in precisions and compiled in compilers]


def our_step(recipe, batch, precision, compiled):
    """A model of ours and a function that makes an update of it with `batch`."""
    model = build_model(recipe.model_copy(update={"precision": precision, "xla": compiled}))
    again = iter(tf.data.Dataset.from_tensors(batch).repeat())
    model.make_train_function()
    return model, lambda: model.train_function(again)["loss"].numpy()


def without_dropout(recipe):
    """A recipe whose student drops nothing."""
    names = [name for name in type(recipe.model).model_fields if is_rate(name)]
    model = recipe.model.model_copy(update=dict.fromkeys(names, 0.0))
    return recipe.model_copy(update={"model": model})


def is_rate(name):
    return "dropout" in name or name in ("drop_path_rate", "layer_drop")


def as_arrays(batch):
    return {name: np.array(value) for name, value in batch.items()}


def _peak_in_fresh_process(recipe, side, setting, threads):
    with concurrent.futures.ProcessPoolExecutor(
        1, mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        return pool.submit(_peak, recipe, side, setting, threads).result()


def _peak(recipe, side, setting, threads):
    data = modality_of(recipe).open_data(recipe, warn=lambda _: None)
    batch = next(iter(data.batches(0)))
    if side == "torch":
        torch, _ = import_peer()
        torch.set_num_threads(threads)
        backbone = modality_of(recipe).backbone(**recipe.model.model_dump())
    before = _memory_bytes("VmRSS")  # libraries and data
    if side == "ours":
        _, step = our_step(recipe, batch, *OURS[setting])
    else:
        step = PeerStep(recipe, backbone, as_arrays(batch), setting)
    for _ in range(2):
        step()
    return _memory_bytes("VmHWM") - before


def _memory_bytes(name):
    """A line of Linux's account of this process: `VmRSS`, now, or `VmHWM`, the most so far.

    What `getrusage` gives as the most so far, a process has from the one that started it.
    """
    with open(STATUS, encoding="ascii") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(f"{name}:"))


def _of(results, side):
    return [result for result in results if result["side"] == side]


def _median(result):
    return result["step"]["median"]


def _ratio(results, precision=""):
    """PyTorch's time over ours, each in its fastest setting of a precision or of all."""
    theirs, ours = (
        min(_median(r) for r in _of(results, side) if r["setting"].startswith(precision))
        for side in ("torch", "ours")
    )
    return theirs / ours
