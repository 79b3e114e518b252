"""The folder of a run: whose it is, and whether this recipe may continue it."""

import contextlib
import fcntl
import os

import yaml

from d2v_tf.config import dump_recipe
from d2v_tf.errors import UserError

# What may change between two starts of one run: none of it changes what an update computes.
FREE_KEYS = {
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "probe_every",
    "xla",
    "data.eval_source",
    "data.probe_folders",
    "data.probe_examples",
    "data.max_bad",
}


class WorkdirError(UserError):
    """A workdir that this run cannot use, with what to do about it."""


@contextlib.contextmanager
def open_workdir(path, recipe):
    """Takes the folder of a run for as long as the context lasts and writes `config.yaml`.

    Args:
        path: str. Made if missing.
        recipe: a resolved `Recipe`.

    Raises:
        WorkdirError: where another process trains there, where the run there was started with
            another recipe, or where the folder cannot be written.
    """
    try:
        os.makedirs(path, exist_ok=True)
        lock = open(os.path.join(path, ".lock"), "w", encoding="utf-8")
    except OSError as error:
        raise WorkdirError(
            f"--workdir={path} cannot be written ({error.strerror}). Choose another folder."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkdirError(
                f"--workdir={path} is in use by another run. Wait for it to end or choose another "
                "folder."
            ) from None
        _check_and_write(os.path.join(path, "config.yaml"), recipe)
        yield


def _check_and_write(path, recipe):
    text = dump_recipe(recipe)
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            before = _flatten(yaml.safe_load(file) or {})
        now = _flatten(yaml.safe_load(text))
        changed = [
            f"{key} was {before.get(key)!r} and is {now.get(key)!r}"
            for key in sorted(set(before) | set(now))
            if before.get(key) != now.get(key) and key not in FREE_KEYS
        ]
        if changed:
            raise WorkdirError(
                f"{path} is of a run with another recipe: {'; '.join(changed)}. To continue that "
                "run, start it as before; for a new run, choose another --workdir."
            )
    temporary = f"{path}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)


def _flatten(mapping, prefix=""):
    flat = {}
    for key, value in mapping.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
