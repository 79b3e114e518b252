"""Typed recipes: a YAML file, `--set` overrides on top, and a refusal of all that is unknown."""

import difflib
import types
import typing
from typing import Annotated, Literal

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field

from d2v_tf.errors import UserError

Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
# Updates; a recipe may also give a part of `steps`, as in "10%", which loading resolves.
Duration = NonNegative


class ConfigError(UserError):
    """A recipe that cannot be used; the message names the key, the value and what is allowed."""


class Group(BaseModel):
    """A group of keys. Unknown keys are refused, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class VisionModel(Group):
    """The arguments of `Data2VecVisionBackbone`."""

    image_shape: tuple[Positive, Positive, Positive]
    patch_size: Positive
    num_layers: Positive
    hidden_dim: Positive
    num_heads: Positive
    intermediate_dim: Positive
    dropout: Rate = 0.0
    attention_dropout: Rate = 0.0
    drop_path_rate: Rate = 0.0
    layer_scale_init_value: Annotated[float, Field(gt=0)] | None = None
    layer_norm_epsilon: Annotated[float, Field(gt=0)] = 1e-6
    activation: Literal["gelu", "relu", "silu"] = "gelu"
    relative_position_bias: Literal["per_block", "shared"] | None = "per_block"
    absolute_position: bool = False


class BlockMask(Group):
    """Block-wise masks over a grid of patches."""

    kind: Literal["block"] = "block"
    ratio: Annotated[float, Field(gt=0, le=1)] = 0.6
    num_masked: Positive | None = None
    min_block: Positive = 16
    max_aspect: Annotated[float, Field(ge=1)] = 1 / 0.3


class Data2VecGroup(Group):
    """The learning rule; the arguments of `Data2Vec`."""

    num_target_layers: Positive
    target_features: Literal["ffn", "block"] = "ffn"
    target_norm: Literal["layer", "instance", "batch"] | None = "layer"
    normalize_average: bool = False
    loss_beta: Annotated[float, Field(ge=0)] = 0.0
    loss_scale: Annotated[float, Field(gt=0)] | None = None
    ema: tuple[Fraction, Fraction, Duration]
    head_layers: Literal[1, 2] = 1


class OptimizerGroup(Group):
    """Adam with decoupled weight decay."""

    name: Literal["adam", "adamw"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)]
    beta_1: Rate = 0.9
    beta_2: Rate = 0.999
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    global_clipnorm: Annotated[float, Field(gt=0)] | None = None


class ScheduleGroup(Group):
    """How the learning rate changes over the run."""

    kind: Literal["cosine", "tri_stage", "constant"] = "cosine"
    warmup_steps: Duration = 0
    hold_steps: Duration = 0
    decay_steps: Duration = 0
    final_scale: Fraction = 0.0


class VisionData(Group):
    """Where images come from and how they are changed."""

    source: str = "builtin"
    eval_source: str | None = None
    tfds_dir: str | None = None
    max_bad: Fraction = 0.01
    shuffle: bool = True
    probe_examples: Positive = 10000
    crop_scale: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] = (
        0.08,
        1.0,
    )
    crop_ratio: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (
        3 / 4,
        4 / 3,
    )
    flip: bool = True
    color_jitter: Rate = 0.4
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[Annotated[float, Field(gt=0)], ...] = (0.5, 0.5, 0.5)


class GuardGroup(Group):
    """When a run counts as collapsed."""

    after_steps: Duration = 5000
    min_target_var: Annotated[float, Field(ge=0)] = 0.1
    min_pred_var: Annotated[float, Field(ge=0)] = 0.01


class Recipe(Group):
    """Everything that decides what a run computes."""

    seed: NonNegative = 0
    steps: Positive
    batch_size: Positive
    accumulate: Positive = 1
    precision: Literal["float32", "bfloat16", "auto"] = "auto"
    xla: bool | Literal["auto"] = "auto"
    log_every: Positive = 10
    checkpoint_every: Positive = 1000
    keep_checkpoints: Positive = 3
    probe_every: Duration = 0  # 0 = after the last update only
    data2vec: Data2VecGroup
    optimizer: OptimizerGroup
    schedule: ScheduleGroup = ScheduleGroup()
    guard: GuardGroup = GuardGroup()


class VisionRecipe(Recipe):
    """A recipe for images."""

    modality: Literal["vision"] = "vision"
    model: VisionModel
    mask: BlockMask = BlockMask()
    data: VisionData = VisionData()

    def problems(self):
        """Pairs (key, what is wrong) of values that do not fit each other."""
        height, width, channels = self.model.image_shape
        patch = self.model.patch_size
        if height % patch or width % patch:
            yield (
                "model.patch_size",
                f"{patch} does not divide the image, {height} x {width} pixels",
            )
            return
        patches = (height // patch) * (width // patch)
        quota = self.mask.num_masked or int(self.mask.ratio * patches + 0.5)
        if quota > patches:
            yield "mask.num_masked", f"{quota} is more than the {patches} patches of an image"
        if self.mask.min_block > quota:
            yield (
                "mask.min_block",
                f"{self.mask.min_block} is more than the {quota} of {patches} patches to mask",
            )
        for key in ("mean", "std"):
            if len(getattr(self.data, key)) != channels:
                yield (
                    f"data.{key}",
                    f"{len(getattr(self.data, key))} numbers for {channels} channels",
                )
        for key in ("crop_scale", "crop_ratio"):
            low, high = getattr(self.data, key)
            if low > high:
                yield f"data.{key}", f"{low} is above {high}"


RECIPES = {"vision": VisionRecipe}
# Keys that may be given as a part of `steps`, such as "10%".
DURATIONS = {
    ("data2vec", "ema", 2),
    ("schedule", "warmup_steps"),
    ("schedule", "hold_steps"),
    ("schedule", "decay_steps"),
    ("guard", "after_steps"),
    ("probe_every",),
    ("checkpoint_every",),
}
# What the paper uses, named when a value is out of range.
PAPER = {
    "mask.ratio": "The paper uses 0.6.",
    "data2vec.loss_beta": "The paper uses 2 for vision, 0 for speech, 4 for text.",
}


def load_recipe(path, overrides=()):
    """Reads a recipe, applies overrides and resolves durations.

    Args:
        path: str. A YAML file.
        overrides: strings `"a.b=value"`, values in YAML; what `--set` is given.

    Returns:
        A recipe, frozen; durations given as a part of `steps` are numbers of updates.

    Raises:
        ConfigError: for a file that cannot be read, a key that does not exist, a value of the
            wrong type or out of range, or values that do not fit each other.
    """
    values = _read_yaml(path)
    set_by = {}
    for override in overrides:
        _apply(values, override, set_by)
    modality = values.get("modality", "vision")
    if modality not in RECIPES:
        raise ConfigError(
            f"modality: {modality!r} is not one of {', '.join(RECIPES)} (set by {path})."
        )
    schema = RECIPES[modality]

    def origin(key):
        ours = any(key == o or key.startswith((o + ".", o + "[")) for o in set_by)
        return f"set by --set, over {path}" if ours else f"set by {path}"

    _refuse_unknown(values, schema, origin)
    _resolve_durations(values, origin)
    try:
        recipe = schema.model_validate(values)
    except pydantic.ValidationError as error:
        raise ConfigError(_explain(error.errors()[0], origin)) from None
    for key, problem in _problems(recipe):
        raise ConfigError(f"{key}: {problem} ({origin(key)}).")
    return recipe


def dump_recipe(recipe):
    """Writes a recipe as YAML from which `load_recipe` reads an equal one."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def _read_yaml(path):
    try:
        with open(path, encoding="utf-8") as file:
            values = yaml.safe_load(file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}). Check --config.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or "not a text file"
        raise ConfigError(f"{path}{where}: not a YAML file ({reason}).") from None
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: a recipe is a mapping of keys to values. Received: {type(values).__name__}."
        )
    return values


def _apply(values, override, set_by):
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {override}: expected key=value, as in --set batch_size=64.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override}: {text!r} is not a YAML value.") from None
    *groups, name = key.split(".")
    target = values
    for depth, group in enumerate(groups):
        target = target.setdefault(group, {})
        if not isinstance(target, dict):
            raise ConfigError(
                f"{key}: {'.'.join(groups[: depth + 1])} is a value, not a group (set by --set)."
            )
    if isinstance(target.get(name), dict) and not isinstance(value, dict):
        raise ConfigError(
            f"{key}: is a group of keys, not a value (set by --set). Set one of its keys, as in "
            f"--set {key}.{next(iter(target[name]))}=..."
        )
    target[name] = value
    set_by[key] = value


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


def _refuse_unknown(values, schema, origin, prefix="", root=None):
    root = root or schema
    for name, value in values.items():
        key = f"{prefix}{name}"
        if name not in schema.model_fields:
            raise ConfigError(f"{key}: no such key ({origin(key)}).{_suggest(key, root)}")
        group = _group_of(schema.model_fields[name].annotation)
        if group and isinstance(value, dict):
            _refuse_unknown(value, group, origin, f"{key}.", root)


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
    steps = values.get("steps")
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
        key = ".".join(p for p in path if isinstance(p, str))
        try:
            part = float(value.strip()[:-1]) / 100
        except ValueError:
            part = -1
        if not 0 <= part <= 1 or not isinstance(steps, int):
            raise ConfigError(
                f"{key}: {value!r} is not a part of steps between 0% and 100% ({origin(key)})."
            )
        target[last] = round(part * steps)


def _explain(error, origin):
    """One line for the first thing that pydantic found wrong."""
    # Union members and tuple items end up in the location; the key is what the user wrote.
    names = [p for p in error["loc"] if isinstance(p, str) and p.isidentifier()]
    items = [p for p in error["loc"] if isinstance(p, int)]
    names = [n for n in names if n not in ("int", "float", "bool", "str", "literal")]
    key = ".".join(names) + "".join(f"[{i}]" for i in items)
    if error["type"] == "missing":
        return f"{key}: is missing ({origin(key)})."
    received, limits = error["input"], error.get("ctx", {})
    if error["type"] in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
        name = next(k for k in limits if k in words)
        problem = f"{received!r} is not {words[name]} {limits[name]:g}"
    elif error["type"] == "literal_error":
        problem = f"{received!r} is not one of {limits['expected']}"
    else:
        problem = f"{received!r} does not fit: {error['msg'][0].lower()}{error['msg'][1:]}"
    hint = PAPER.get(key)
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
