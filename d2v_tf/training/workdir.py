"""The folder of a run: whose it is, and whether this recipe may continue it."""

import contextlib
import glob
import math
import os
import re

import yaml

from d2v_tf.config import dump_recipe, flatten
from d2v_tf.errors import UserError
from d2v_tf.schema.common import Group
from d2v_tf.schema.finetune import FinetuneRecipe
from d2v_tf.training.folder_lock import FolderInUse, hold_folder
from d2v_tf.training.precision import resolve_precision, resolve_xla

# What may change between two starts of one run: none of it changes what an update computes, to
# rounding and to what is dropped out. XLA does: it draws other random numbers.
FREE_KEYS = {
    "accumulate",
    "remat",
    "guard.after_steps",
    "guard.min_target_var",
    "guard.min_pred_var",
    "guard.min_frontend_var",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "keep_every",
    "probe_every",
    "data.eval_source",
    "data.probe_folders",
    "data.probe_examples",
    "data.max_bad",
    "data.tfds_dir",
    "data.cache_dir",
}


# Of a batch of speech at most this part is left out, for its size to divide by MULTIPLES.
MAX_LEFT_OUT = 1 / 8
MULTIPLES = (8, 4, 2)


class WorkdirError(UserError):
    """A workdir that this run cannot use, with what to do about it."""


@contextlib.contextmanager
def open_workdir(path, recipe, replicas=1, is_chief=True):
    """Takes the folder of a run for as long as the context lasts and writes `config.yaml`.

    A run that is continued goes on with the numbers and the compiler that it was started with,
    whatever `auto` means on this machine, and what it started from stays on record.

    Args:
        path: str. Made if missing.
        recipe: a `Recipe`.
        replicas: int. In how many parts an update is computed at the same time.
        is_chief: bool. Of several workers only one takes the folder and writes.

    Yields:
        The recipe, with what is `auto` resolved and the `init` that the run started from.

    Raises:
        WorkdirError: where another process trains there, where the folder holds checkpoints of
            another recipe, or where it cannot be written.
    """
    if re.match("[A-Za-z][A-Za-z0-9+.-]*://", path):
        raise WorkdirError(
            f"--workdir={path} is an address, and a run's folder has to be one of a mounted file "
            "system: mount the bucket or share (gcsfuse, s3fs, NFS), and give the path there."
        )
    if not is_chief:
        yield _resolve(path, recipe, replicas)
        return
    with contextlib.ExitStack() as held:
        try:
            os.makedirs(path, exist_ok=True)
            held.enter_context(hold_folder(path))
        except OSError as error:
            raise WorkdirError(
                f"--workdir={path} cannot be written ({error.strerror}). Choose another folder."
            ) from error
        except FolderInUse as error:
            raise WorkdirError(
                f"--workdir={path} is in use {error}. Wait for it to end or choose another folder."
            ) from None
        recipe = _resolve(path, recipe, replicas)
        _write(os.path.join(path, "config.yaml"), recipe)
        yield recipe


def _resolve(path, recipe, replicas):
    """The recipe as this run has it; refuses one that it was not started with."""
    config = os.path.join(path, "config.yaml")
    before = {}
    # Those that are kept for good are checkpoints, too.
    if glob.glob(f"{glob.escape(path)}/checkpoints/**/*.index", recursive=True):
        before = _read(config)
    if before and ("task" in before) != _is_finetuning(recipe):
        kind = "a fine-tuning run" if "task" in before else "a pre-training run"
        raise WorkdirError(f"--workdir={path} is the folder of {kind}. Choose another one.")
    if before:
        before = _with_defaults(before, recipe)
    recipe = _resolve_auto(recipe, before, replicas)
    if hasattr(recipe.data, "size_multiple") and getattr(recipe, "task", "ctc") == "ctc":
        recipe = _resolve_batch_sizes(config, recipe, before, replicas)
    if before:
        if not _is_finetuning(recipe):  # weights are read once, at the start
            recipe = recipe.model_copy(update={"init": before["init"]})
        _check(config, recipe, before)
    return recipe


def _read(path):
    try:
        with open(path, encoding="utf-8") as file:
            recipe = yaml.safe_load(file)
        if isinstance(recipe, dict):
            return flatten(recipe)
        reason = "it holds no keys"
    except OSError as error:
        reason = error.strerror
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
    raise WorkdirError(
        f"{path} cannot be read ({reason}), and there are checkpoints beside it. Put a copy of it "
        "back, or choose another --workdir."
    )


def _with_defaults(before, recipe):
    """What a run was started with; of keys that there were not yet, their defaults.

    Args:
        before: dict of flat keys, from a run's `config.yaml`.
        recipe: a `Recipe`, whose modality's keys are meant.
    """
    groups = {"": type(recipe)}
    groups |= {f"{name}.": type(group) for name, group in recipe if isinstance(group, Group)}
    defaults = {
        prefix + name: field.get_default(call_default_factory=True)
        for prefix, group in groups.items()
        for name, field in group.model_fields.items()
        if not field.is_required() and f"{prefix}{name}." not in groups
    }
    defaults = {k: list(v) if isinstance(v, tuple) else v for k, v in defaults.items()}
    return {**defaults, **before}


def _resolve_auto(recipe, before, replicas):
    precision, xla = recipe.precision, recipe.xla
    if precision == "auto":
        precision = resolve_precision(before.get("precision", "auto"), replicas)
    if xla == "auto":
        xla = resolve_xla(before.get("xla", "auto"))
    return recipe.model_copy(update={"precision": precision, "xla": xla})


def _resolve_batch_sizes(path, recipe, before, replicas):
    """Batches of speech have the sizes that they began with, whatever computes them now.

    Else the batches of an epoch would be others, and some of its examples come twice. Sizes are
    multiples of `accumulate` times `data.size_multiple`.
    """
    multiple, accumulate = recipe.data.size_multiple, recipe.accumulate
    if before:
        if before["data.size_multiple"] == "auto":  # a run older than the key
            before["data.size_multiple"] = 1
        parts = before.get("accumulate", 1) * before["data.size_multiple"]
        if multiple == "auto":
            multiple = max(1, parts // accumulate)
        if multiple * accumulate != parts and _is_finetuning(recipe):
            raise WorkdirError(
                f"{path} is of a run whose batches have multiples of {parts} utterances. Leave "
                "data.size_multiple away to continue it, or choose another --workdir."
            )
        if multiple * accumulate != parts:
            raise WorkdirError(
                f"{path} is of a run whose batches have multiples of {parts} utterances, and with "
                f"accumulate={accumulate} and data.size_multiple={multiple} they would be "
                f"of {multiple * accumulate}. Choose an accumulate that divides {parts}."
            )
        before["data.size_multiple"] = multiple
    elif multiple == "auto":
        multiple = _size_multiple(recipe, replicas)
    data = recipe.data.model_copy(update={"size_multiple": multiple})
    return recipe.model_copy(update={"data": data})


def _size_multiple(recipe, replicas):
    """Of the replicas, and of 2, 4 or 8: the run may go on with another number of them."""
    for more in MULTIPLES:
        multiple = math.lcm(replicas, more)
        if (multiple * recipe.accumulate - 1) / recipe.batch_size <= MAX_LEFT_OUT:
            return multiple
    return replicas


def _check(path, recipe, before):
    now = flatten(yaml.safe_load(dump_recipe(recipe)))
    # There, what is measured on decides which weights are the best and when the run ends.
    free = FREE_KEYS - {"data.eval_source"} if _is_finetuning(recipe) else FREE_KEYS
    changed = [
        f"{key} was {before.get(key)!r} and is {now.get(key)!r}"
        for key in sorted(set(before) | set(now))
        if before.get(key) != now.get(key) and key not in free
    ]
    if changed:
        raise WorkdirError(
            f"{path} is of a run with another recipe: {'; '.join(changed)}. To continue that run, "
            "start it as before; for a new run, choose another --workdir."
        )


def _write(path, recipe):
    temporary = f"{path}.tmp"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(dump_recipe(recipe))
        os.replace(temporary, path)
    except OSError as error:
        raise WorkdirError(
            f"{path} cannot be written ({error.strerror}). Free some space, or choose another "
            "--workdir."
        ) from error


def _is_finetuning(recipe):
    return isinstance(recipe, FinetuneRecipe)
