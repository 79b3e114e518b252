"""Copies tensors by a table, both ways, and reports what became of every key.

A table is a tuple of rows `(ours, layout, *theirs)`: the attribute path of a variable from the
backbone on, how it lies, and the keys of the tensors that hold it. `{i}` counts the entries of the
list before it. A row whose variable a backbone does not have (a bias, a norm) is left out.
"""

import dataclasses
import functools
import re

import keras
import numpy as np

from d2v_tf.errors import UserError
from d2v_tf.interop.layouts import Layout


class WeightsError(UserError):
    """Weights that do not fit, or cannot be read; the message names them."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row for one variable of one backbone: its path, itself, its layout, their keys."""

    ours: str
    variable: keras.Variable
    layout: Layout
    theirs: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What was loaded from where.

    Attributes:
        path: str. The folder.
        kind: str. What it was seen to be.
        mapped: dict of our variables, each with the keys that it was read from.
        unused: tuple of str. Keys that nothing of the backbone was read from.
        missing: tuple of str. Our variables that such a file need not hold and this one does not;
            they are as initialized.
        constants: tuple of str. Keys that hold no weights but what follows from the configuration.
        pretraining: tuple of str. Keys of a teacher and a regression head, which pre-training goes
            on with; nothing of the backbone was read from them.
        assumed: tuple of str. What the backbone was taken to be where the file does not say.
    """

    path: str
    kind: str
    mapped: dict[str, tuple[str, ...]]
    unused: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()
    pretraining: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()

    def summary(self):
        """One line for whoever loaded it."""
        line = f"{self.path}: {self.kind}, {len(self.mapped)} variables read"
        if self.missing:
            line += f"; not in the file and as initialized: {', '.join(self.missing)}"
        if self.pretraining:
            line += f"; {len(self.pretraining)} tensors are a teacher's or a regression head's"
        if self.assumed:
            line += f"; assumed: {', '.join(self.assumed)}"
        return line


def expand(table, model, weights=None):
    """The rows of a table for a model.

    Args:
        table: the key map.
        model: a backbone, or a task with a head.
        weights: optional list of the variables that the table is about. Defaults to all.

    Returns:
        list of `Entry`, one a variable.

    Raises:
        ValueError: for a table that leaves a variable out, which is a mistake in it.
    """
    entries = []
    for ours, layout, *theirs in table:
        for i in range(_count(model, ours)):
            path = ours.format(i=i)
            variable = _resolve(model, path)
            if variable is not None:
                keys = tuple(key.format(i=i) for key in theirs)
                entries.append(Entry(path, variable, layout, keys))
    covered = {id(entry.variable) for entry in entries}
    weights = model.weights if weights is None else weights
    left_out = [weight.path for weight in weights if id(weight) not in covered]
    if left_out:
        raise ValueError(f"The key map lacks variables of {type(model).__name__}: {left_out}")
    return entries


def load_entries(entries, tensors, sizes, optional=(), prefix=""):
    """Assigns every variable its tensors, one after the other.

    Args:
        entries: list of `Entry`.
        tensors: what `d2v_tf.interop.tensor_files` opens.
        sizes: dict of ints for the layouts.
        optional: paths of variables that the file need not hold.
        prefix: str. What their keys begin with in this file.

    Returns:
        (dict of our variables with their keys, tuple of variables that the file does not hold).

    Raises:
        WeightsError: names all keys that are missing and all of another shape.
    """
    available = set(tensors.keys())
    present, absent, missing, misshapen = [], [], [], []
    for entry in entries:
        keys = [prefix + key for key in entry.theirs]
        lacking = [key for key in keys if key not in available]
        if lacking == keys and entry.ours in optional:
            absent.append(entry.ours)
            continue
        missing += lacking
        if not lacking:
            present.append((entry, keys))
            for key, shape in zip(keys, _their_shapes(entry, sizes), strict=True):
                if tensors.shape(key) != shape:
                    misshapen.append(f"{key} is {tensors.shape(key)}, not {shape}")
    if missing or misshapen:
        problems = []
        if missing:
            problems.append(f"{len(missing)} missing: {', '.join(missing)}")
        if misshapen:
            problems.append(f"{len(misshapen)} of another shape: {'; '.join(misshapen)}")
        raise WeightsError(
            f"{tensors.name}: its tensors do not fit its configuration. {'. '.join(problems)}."
        )
    mapped = {}
    for entry, keys in present:
        entry.variable.assign(entry.layout.to_ours(sizes, *map(tensors.read, keys)))
        mapped[entry.ours] = tuple(keys)
    return mapped, tuple(absent)


def surplus_keys(table, keys, prefix=""):
    """Which of their keys a table would map, if the model had more entries in a list."""
    templates = [
        re.escape(key).replace(r"\{i\}", r"\d+")
        for _, _, *theirs in table
        for key in theirs
        if "{i}" in key
    ]
    mapped = re.compile(f"{re.escape(prefix)}(?:{'|'.join(templates)})")
    return [key for key in keys if templates and mapped.fullmatch(key)]


def export_entries(entries, sizes):
    """The tensors of another format.

    Returns:
        dict of key to contiguous array.
    """
    tensors = {}
    for entry in entries:
        array = keras.ops.convert_to_numpy(entry.variable).astype("float32", copy=False)
        theirs = entry.layout.to_theirs(sizes, array)
        for key, tensor in zip(entry.theirs, theirs, strict=True):
            tensors[key] = np.ascontiguousarray(tensor)
    return tensors


def _their_shapes(entry, sizes):
    empty = np.broadcast_to(np.float32(0), entry.variable.shape)  # a shape that holds no memory
    return [tensor.shape for tensor in entry.layout.to_theirs(sizes, empty)]


def _count(backbone, path):
    """How many variables a row stands for."""
    if "{i}" not in path:
        return 1
    return len(_resolve(backbone, path.split(".{i}")[0]))


def _resolve(backbone, path):
    """What stands at an attribute path; `None` where the way ends before."""

    def step(value, name):
        if value is None:
            return None
        return value[int(name)] if name.isdigit() else getattr(value, name)

    return functools.reduce(step, path.split("."), backbone)
