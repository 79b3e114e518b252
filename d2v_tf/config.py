"""Reads recipes: a YAML file, `--set` overrides on top, and a refusal of what does not fit."""

import difflib
import re
import types
import typing

import pydantic
import yaml

from d2v_tf.errors import UserError
from d2v_tf.schema import DURATIONS, FINETUNE_RECIPES, PAPER, RECIPES
from d2v_tf.schema.common import Group, Positive


class ConfigError(UserError):
    """A recipe that cannot be used; the message names the key, the value and what is allowed."""


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key given twice, of which PyYAML would keep the last in silence."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                problem = f"{key.value!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_recipe(path, overrides=(), modality=None):
    """Reads a recipe, applies overrides and resolves durations.

    Args:
        path: str. A YAML file.
        overrides: strings `"a.b=value"`, values in YAML; what `--set` is given.
        modality: optional str. What the recipe must be for, and is where it does not say.

    Returns:
        A recipe, frozen; durations given as a part of `steps` are numbers of updates.

    Raises:
        ConfigError: for a file that cannot be read, a key that does not exist, a value of the
            wrong type or out of range, or values that do not fit each other.
    """
    return _load(path, overrides, modality, RECIPES, _problems)


def load_finetune_recipe(path, overrides=(), modality=None):
    """Reads a recipe for fine-tuning, as `load_recipe` reads one for pre-training.

    Durations may stay parts of the run where the recipe counts epochs;
    `d2v_tf.schema.finetune.resolve_durations` makes them numbers once the data is known.
    """
    return _load(path, overrides, modality, FINETUNE_RECIPES, lambda recipe: recipe.problems())


def _load(path, overrides, modality, schemas, problems):
    values = _read_yaml(path)
    overridden = set()
    for override in overrides:
        overridden.add(_apply(values, override))

    def origin(key, given=False):
        whole = key.split("[")[0]  # of an item such as data.std[1], the list
        if any(
            f"{whole}.".startswith(f"{o}.") or f"{o}.".startswith(f"{key}.") for o in overridden
        ):
            return f"set by --set, over {path}"
        if given or _holds(values, whole):
            return f"set by {path}"
        return f"the default; {path} has none"

    found = values.setdefault("modality", modality or "vision")
    if not isinstance(found, str) or found not in schemas:
        raise ConfigError(
            f"modality: {found!r} is not one of {', '.join(schemas)} ({origin('modality')})."
        )
    if modality not in (None, found):
        raise ConfigError(
            f"modality: {path} is a recipe for {found}, and --modality={modality} was asked for. "
            "Change one of the two."
        )
    schema = schemas[found]
    _refuse_misplaced(values, schema, origin)
    _resolve_durations(values, origin)
    try:
        recipe = schema.model_validate(values)
    except pydantic.ValidationError as error:
        raise ConfigError(_explain(error.errors()[0], found, path, overridden, origin)) from None
    for key, problem in problems(recipe):
        raise ConfigError(f"{key}: {problem} ({origin(key)}).")
    return recipe


def published_batch_size(path):
    """The batch size that a recipe's file has, whatever is set over it, or `None`."""
    return _read_yaml(path).get("batch_size")


def modality_in(path):
    """The modality that a recipe's file names, or `None`."""
    return _read_yaml(path).get("modality")


def task_in(path):
    """The task that a recipe's file names, or `None`: one for pre-training has none."""
    return _read_yaml(path).get("task")


def dump_recipe(recipe):
    """Writes a recipe as YAML from which `load_recipe` reads an equal one."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def flatten(mapping, prefix=""):
    """A recipe's groups as keys with dots: `{"a": {"b": 1}}` -> `{"a.b": 1}`."""
    flat = {}
    for key, value in mapping.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _parse_yaml(text):
    try:
        return yaml.load(text, Loader=_Loader)
    except ValueError as error:  # such as a date in month 13, which PyYAML lets through
        raise yaml.YAMLError(str(error)) from None


def _read_yaml(path):
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}). Check --config.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a YAML file (not a text file).") from None
    try:
        values = _parse_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or error
        raise ConfigError(f"{path}{where}: not a YAML file ({reason}).") from None
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: a recipe is a mapping of keys to values. Received: {type(values).__name__}."
        )
    return values


def _apply(values, override):
    """Puts one `"a.b=value"` into the nested `values`; returns its key."""
    key, separator, text = override.partition("=")
    *groups, name = key.split(".")
    if not separator or not all([*groups, name]):
        raise ConfigError(f"--set {override}: expected key=value, as in --set batch_size=64.")
    try:
        value = _parse_yaml(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override}: {text!r} is not a YAML value.") from None
    target = values
    for depth, group in enumerate(groups):
        target = target.setdefault(group, {})
        if not isinstance(target, dict):
            raise ConfigError(
                f"{key}: {'.'.join(groups[: depth + 1])} is a value, not a group (set by --set)."
            )
    target[name] = value
    return key


def _holds(values, key):
    for name in key.split("."):
        if not isinstance(values, dict) or name not in values:
            return False
        values = values[name]
    return True


def _group_of(annotation):
    """The `Group` class of a field's type, or `None`."""
    if isinstance(annotation, type) and issubclass(annotation, Group):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next((g for a in typing.get_args(annotation) if (g := _group_of(a))), None)
    return None


def _all_keys(schema, prefix=""):
    for name, field in schema.model_fields.items():
        group = _group_of(field.annotation)
        if group:
            yield from _all_keys(group, f"{prefix}{name}.")
        yield f"{prefix}{name}"


def _refuse_misplaced(values, schema, origin, prefix="", root=None):
    """Refuses keys that do not exist, and values where a group of keys belongs."""
    root = root or schema
    for name, value in values.items():
        key = f"{prefix}{name}"
        if name not in schema.model_fields:
            hint = _suggest(key, root)
            if "." in str(name):  # only in a file: --set splits at the dots
                hint = " In a file, groups nest, as in optimizer: {learning_rate: 0.001}."
            raise ConfigError(f"{key}: no such key ({origin(key, given=True)}).{hint}")
        group = _group_of(schema.model_fields[name].annotation)
        if group and not isinstance(value, dict):
            raise ConfigError(
                f"{key}: {value!r} is a value, and {key} is a group of keys ({origin(key)}). "
                f"Set one of its keys, as in --set {key}.{next(iter(group.model_fields))}=..."
            )
        if group:
            _refuse_misplaced(value, group, origin, f"{key}.", root)


def _suggest(key, schema):
    known = list(_all_keys(schema))
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.7)
    if not near:  # the right name in the wrong group
        last = key.split(".")[-1]
        near = [k for k in known if k.split(".")[-1] == last] or difflib.get_close_matches(
            last, known, n=1, cutoff=0.7
        )
    return f" Did you mean {near[0]}?" if near else ""


def _resolve_durations(values, origin):
    """Replaces parts of `steps`, such as "10%", by numbers of updates, at least 1 of each."""
    try:
        steps = pydantic.TypeAdapter(Positive).validate_python(values.get("steps"))
    except pydantic.ValidationError:
        return  # validation comes next, and blames steps itself
    rounded = []
    for path in DURATIONS:
        *parents, last = path
        target = values
        for parent in parents:
            target = target.get(parent) if isinstance(target, dict) else None
        if isinstance(target, list) and isinstance(last, int) and len(target) > last:
            value = target[last]
        elif isinstance(target, dict) and last in target:
            value = target[last]
        else:
            continue
        if not (isinstance(value, str) and value.strip().endswith("%")):
            continue
        try:
            part = float(value.strip()[:-1]) / 100
        except ValueError:
            part = -1
        if not 0 <= part <= 1:
            key = _dotted(path)
            raise ConfigError(
                f"{key}: {value!r} is not a part of steps between 0% and 100% ({origin(key)})."
            )
        target[last] = max(1, round(part * steps)) if part else 0
        if path[0] == "schedule":
            rounded.append(last)
    _take_excess(values.get("schedule"), rounded, steps)


def _take_excess(schedule, rounded, steps):
    """Stages that were rounded up one by one must not be longer than the run together."""
    if not rounded:
        return
    stages = [schedule.get(name, 0) for name in ("warmup_steps", "hold_steps", "decay_steps")]
    if not all(isinstance(stage, int) for stage in stages):
        return  # validation comes next
    excess = sum(stages) - steps
    longest = max(rounded, key=schedule.get)
    if 0 < excess <= len(rounded):  # more is no matter of rounding
        schedule[longest] -= excess


def _dotted(path):
    """`("data2vec", "ema", 2)` as a user writes it: `"data2vec.ema[2]"`."""
    return ".".join(p for p in path if isinstance(p, str)) + "".join(
        f"[{p}]" for p in path if isinstance(p, int)
    )


def _explain(error, modality, path, overridden, origin):
    """One line for the first thing that pydantic found wrong."""
    key = _dotted(error["loc"])
    if error["type"] == "missing":
        from_file = isinstance(error["loc"][-1], str) and not any(
            key.startswith(f"{o}.") for o in overridden
        )
        return f"{key}: is missing " + (f"from {path}." if from_file else f"({origin(key)}).")
    received, limits = error["input"], error.get("ctx", {})
    hint = PAPER.get((modality, key), "")
    if error["type"] in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
        name = next(k for k in limits if k in words)
        problem = f"{received!r} is not {words[name]} {limits[name]:g}"
    elif error["type"] == "literal_error":
        problem = f"{received!r} is not one of {limits['expected']}"
        choices = re.findall("'([^']*)'", limits["expected"])
        near = difflib.get_close_matches(str(received), choices, n=1, cutoff=0.7)
        hint = f"Did you mean {near[0]}?" if near else hint
    else:
        problem = f"{received!r} does not fit: {error['msg'][0].lower()}{error['msg'][1:]}"
        if error["loc"] in DURATIONS:
            hint = "Give updates, or a part of steps, as in 5%."
    return f"{key}: {problem} ({origin(key)})." + (f" {hint}" if hint else "")


def _problems(recipe):
    """Pairs (key, what is wrong) of values that do not fit each other, for every modality."""
    model, schedule = recipe.model, recipe.schedule
    if model.hidden_dim % model.num_heads:
        yield (
            "model.num_heads",
            f"{model.num_heads} does not divide model.hidden_dim {model.hidden_dim}",
        )
    if recipe.data2vec.num_target_layers > model.num_layers:
        yield (
            "data2vec.num_target_layers",
            f"{recipe.data2vec.num_target_layers} is more than model.num_layers {model.num_layers}",
        )
    if recipe.batch_size % recipe.accumulate:
        yield (
            "accumulate",
            f"{recipe.accumulate} does not divide batch_size {recipe.batch_size}",
        )
    if recipe.accumulate > 1 and recipe.data2vec.target_norm == "batch":
        yield "accumulate", "must be 1 with data2vec.target_norm batch, which needs whole batches"
    stages = schedule.warmup_steps
    if schedule.kind == "tri_stage":
        stages += schedule.hold_steps + schedule.decay_steps
        if schedule.final_scale == 0:
            yield "schedule.final_scale", "0.0 is not above 0, which an exponential decay needs"
    if stages > recipe.steps:
        yield (
            "schedule",
            f"its stages take {stages} updates, more than the {recipe.steps} of steps",
        )
    yield from recipe.problems()
