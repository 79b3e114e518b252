"""Recipes: the published numbers, what `--set` changes, and what a wrong recipe is told."""

import inspect
import re
import shlex
from pathlib import Path

import pydantic
import pytest
import yaml

import d2v_tf
from d2v_tf.config import ConfigError, dump_recipe, load_finetune_recipe, load_recipe
from d2v_tf.schema import DURATIONS, VisionRecipe
from d2v_tf.schema import RECIPES as RECIPE_CLASSES
from d2v_tf.schema.common import Data2VecGroup
from d2v_tf.schema.finetune import resolve_durations
from d2v_tf.schema.speech import SpeechModel
from d2v_tf.schema.text import TextModel
from d2v_tf.schema.vision import VisionModel

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "configs").glob("*/*.yaml"))
IMAGENET = 1_281_167  # training images of ImageNet-1k
SMALL = """\
modality: vision
steps: 1000
batch_size: 32
model: {image_shape: [32, 32, 3], patch_size: 4, num_layers: 4, hidden_dim: 128, num_heads: 4,
        intermediate_dim: 512}
mask: {ratio: 0.6, min_block: 4}
data2vec: {num_target_layers: 4, loss_beta: 2.0, ema: [0.99, 0.999, 300]}
optimizer: {learning_rate: 0.001}
schedule: {kind: cosine, warmup_steps: 50}
data: {source: builtin, mean: [0.5, 0.5, 0.5]}
"""


@pytest.fixture
def recipe_file(tmp_path, monkeypatch):
    """A small valid recipe, `recipe.yaml` in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(SMALL, encoding="utf-8")
    return "recipe.yaml"


def message(path, *overrides):
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


def get(recipe, key):
    for name in key.split("."):
        recipe = getattr(recipe, name)
    return recipe


# The recipes that are shipped.


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: f"{p.parent.stem}-{p.stem}")
def test_a_shipped_recipe_loads_and_its_dump_loads_equal(path, tmp_path):
    if path.parent.stem == "finetune":
        load = load_finetune_recipe
        recipe = load(path)
        recipe = resolve_durations(recipe, recipe.steps or 1000)
        recipe = recipe.model_copy(update={"epochs": None})  # or steps: not both
    else:
        load = load_recipe
        recipe = load(path)
    dumped = tmp_path / "dumped.yaml"
    dumped.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load(dumped) == recipe
    assert "%" not in dumped.read_text(encoding="utf-8")  # durations are resolved


def test_all_sizes_of_vision_are_shipped():
    assert {p.stem for p in RECIPES} >= {
        "vision_tiny",
        "vision_small",
        "vision_base",
        "vision_large",
    }


BOTH = {
    "modality": "vision",
    "accumulate": 1,
    "model.image_shape": (224, 224, 3),
    "model.patch_size": 16,
    "model.dropout": 0.0,
    "model.attention_dropout": 0.0,
    "model.drop_path_rate": 0.2,
    "model.layer_scale_init_value": 1e-4,
    "model.layer_norm_epsilon": 1e-6,
    "model.activation": "gelu",
    "model.relative_position_bias": "per_block",
    "model.absolute_position": False,
    "mask.kind": "block",
    "mask.ratio": 0.6,
    "mask.num_masked": None,
    "mask.min_block": 16,
    "mask.max_aspect": pytest.approx(1 / 0.3),
    "data2vec.num_target_layers": 6,
    "data2vec.target_features": "ffn",
    "data2vec.target_norm": "layer",
    "data2vec.normalize_average": True,
    "data2vec.loss_beta": 2.0,
    "data2vec.loss_scale": None,
    "data2vec.head_layers": 1,
    "data2vec.ema": (0.9998, 0.9998, 0),
    "optimizer.beta_1": 0.9,
    "optimizer.beta_2": 0.98,
    "optimizer.weight_decay": 0.05,
    "optimizer.global_clipnorm": None,
    "schedule.kind": "cosine",
    "schedule.final_scale": 0.0,
    "data.source": "tfds:imagenet2012",
    "data.crop_scale": (0.08, 1.0),
    "data.crop_ratio": (pytest.approx(3 / 4), pytest.approx(4 / 3)),
    "data.flip": True,
    "data.color_jitter": 0.4,
    "data.mean": (0.485, 0.456, 0.406),  # not in the table: ImageNet's, as BEiT and the release
    "data.std": (0.229, 0.224, 0.225),
    "guard.after_steps": 5000,
    "guard.min_target_var": 0.1,
    "guard.min_pred_var": 0.01,
}
BASE = {
    **BOTH,
    "batch_size": 2048,
    "steps": round(800 * IMAGENET / 2048),
    "schedule.warmup_steps": round(40 * IMAGENET / 2048),
    "optimizer.learning_rate": 2e-3,
    "model.num_layers": 12,
    "model.hidden_dim": 768,
    "model.num_heads": 12,
    "model.intermediate_dim": 3072,
}
# 1,600 epochs in two halves, each a schedule of its own; the recipe is the first half.
LARGE = {
    **BOTH,
    "batch_size": 8192,
    "steps": round(800 * IMAGENET / 8192),
    "schedule.warmup_steps": round(80 * IMAGENET / 8192),
    "optimizer.learning_rate": 1e-3,
    "model.num_layers": 24,
    "model.hidden_dim": 1024,
    "model.num_heads": 16,
    "model.intermediate_dim": 4096,
}


SPEECH = {
    "modality": "speech",
    "steps": 400_000,
    "batch_size": 189,  # of 20 s: 63 minutes
    "data.min_seconds": 2.0,
    "data.max_seconds": 20.0,
    "model.conv_dims": (512,) * 7,
    "model.conv_kernel_sizes": (10, 3, 3, 3, 3, 2, 2),
    "model.conv_strides": (5, 2, 2, 2, 2, 2, 2),
    "model.position_conv_layers": 5,
    "model.position_conv_kernel_size": 19,
    "model.position_conv_groups": 16,
    "model.dropout": 0.1,
    "model.layer_drop": 0.05,
    "mask.start_ratio": 0.065,
    "mask.span_length": 10,
    "data2vec.num_target_layers": 8,
    "data2vec.target_features": "ffn",
    "data2vec.target_norm": "instance",
    "data2vec.normalize_average": False,
    "data2vec.loss_beta": 0.0,
    "data2vec.loss_scale": None,
    "data2vec.head_layers": 1,
    "data2vec.ema": (0.999, 0.9999, 30_000),
    "optimizer.beta_1": 0.9,
    "optimizer.beta_2": 0.98,
    "optimizer.epsilon": 1e-6,
    "optimizer.weight_decay": 0.01,
    "schedule.kind": "tri_stage",
    "schedule.warmup_steps": 12_000,
    "schedule.hold_steps": 360_000,
    "schedule.decay_steps": 28_000,
    "schedule.final_scale": 0.01,
}
SPEECH_BASE = {
    **SPEECH,
    "optimizer.learning_rate": 5e-4,
    "model.num_layers": 12,
    "model.hidden_dim": 768,
    "model.num_heads": 12,
    "model.intermediate_dim": 3072,
}
# Of Large the paper gives the size alone.
SPEECH_LARGE = {
    **SPEECH,
    "model.num_layers": 24,
    "model.hidden_dim": 1024,
    "model.num_heads": 16,
    "model.intermediate_dim": 4096,
}


@pytest.mark.parametrize(
    ("name", "paper"),
    [
        ("vision_base", BASE),
        ("vision_large", LARGE),
        ("speech_base", SPEECH_BASE),
        ("speech_large", SPEECH_LARGE),
    ],
)
def test_a_recipe_with_a_papers_name_is_the_papers_row(name, paper):
    recipe = load_recipe(ROOT / "configs" / "pretrain" / f"{name}.yaml")
    for key, expected in paper.items():
        assert get(recipe, key) == expected, key


@pytest.mark.parametrize(
    "name", ["vision_base", "vision_large", "speech_base", "speech_large", "text_base"]
)
def test_a_recipe_with_a_papers_name_leaves_no_number_to_a_default(name):
    # Whoever reads the file sees the whole row, with its sources, and no default can change it.
    values = yaml.safe_load((ROOT / "configs" / "pretrain" / f"{name}.yaml").read_text("utf-8"))
    for group in ("model", "mask", "data2vec", "optimizer", "schedule", "guard"):
        fields = set(RECIPE_CLASSES[values["modality"]].model_fields[group].annotation.model_fields)
        if values["schedule"]["kind"] != "tri_stage":
            fields -= {"hold_steps", "decay_steps"}
        # an absolute quota in place of the ratio; not numbers of the method
        fields -= {"num_masked", "min_spans", "name", "kind"}
        assert fields <= set(values[group]), group


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_command_in_a_recipe_names_flags_that_the_tool_has(path):
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line[0] == "#"]
    commands = [line for line in lines if "python tools/" in line]
    assert commands, "a recipe shows its command"
    for command in commands:
        tool = (ROOT / re.search(r"tools/\w+\.py", command)[0]).read_text(encoding="utf-8")
        for flag in re.findall(r"--(\w+)", command):
            assert f'"{flag}"' in tool, flag


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: f"{p.parent.stem}-{p.stem}")
def test_settings_that_a_recipe_suggests_fit_it(path):
    load = load_finetune_recipe if path.parent.stem == "finetune" else load_recipe
    for line in path.read_text(encoding="utf-8").splitlines():
        start = line.find("--set ")
        if line.startswith("#") and start >= 0 and "python" not in line:
            words = shlex.split(line[start:])
            settings = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
            assert load(path, settings) != load(path)


@pytest.mark.parametrize(
    ("group", "built"),
    [
        (VisionModel, d2v_tf.Data2VecVisionBackbone),
        (SpeechModel, d2v_tf.Data2VecSpeechBackbone),
        (TextModel, d2v_tf.Data2VecTextBackbone),
        (Data2VecGroup, d2v_tf.Data2Vec),
    ],
)
def test_a_group_holds_arguments_of_what_it_builds(group, built):
    assert set(group.model_fields) <= set(inspect.signature(built).parameters)


def test_every_duration_is_a_key():
    for first, *rest in DURATIONS:
        field = VisionRecipe.model_fields[first]
        if rest:
            assert rest[0] in field.annotation.model_fields


def test_recipes_are_frozen(recipe_file):
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        load_recipe(recipe_file).optimizer.learning_rate = 1.0


# `--set` and durations.


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("seed=7", "seed", 7),
        ("optimizer.learning_rate=2e-3", "optimizer.learning_rate", 0.002),  # text to YAML
        ("optimizer.learning_rate=1", "optimizer.learning_rate", 1.0),
        ("batch_size='64'", "batch_size", 64),
        ("xla=true", "xla", True),
        ("xla=auto", "xla", "auto"),
        ("xla=parts", "xla", "parts"),
        ("data2vec.target_norm=null", "data2vec.target_norm", None),
        ("data2vec.target_norm=", "data2vec.target_norm", None),
        ("data2vec.ema=[0.9, 0.99, 5]", "data2vec.ema", (0.9, 0.99, 5)),
        ("data2vec.ema=[0.9, 99e-2, 50%]", "data2vec.ema", (0.9, 0.99, 500)),
        ("model.image_shape=[64, 32, 3]", "model.image_shape", (64, 32, 3)),
        ("data.source=folder:a=b", "data.source", "folder:a=b"),
        ("guard.after_steps=3", "guard.after_steps", 3),  # a group that the file leaves out
        ("guard={after_steps: 3}", "guard.after_steps", 3),
        ("schedule.warmup_steps=10%", "schedule.warmup_steps", 100),
        ("schedule.warmup_steps=2.5%", "schedule.warmup_steps", 25),
        ("schedule.warmup_steps=0%", "schedule.warmup_steps", 0),
        ("schedule.warmup_steps=100%", "schedule.warmup_steps", 1000),
        ("schedule.hold_steps=1%", "schedule.hold_steps", 10),
        ("schedule.decay_steps=7%", "schedule.decay_steps", 70),
        ("guard.after_steps=20%", "guard.after_steps", 200),
        ("checkpoint_every=25%", "checkpoint_every", 250),
        ("probe_every=10%", "probe_every", 100),
        ("probe_every=0.01%", "probe_every", 1),  # a part of the run is never no update at all
    ],
)
def test_set_reads_yaml_values(recipe_file, override, key, value):
    got = get(load_recipe(recipe_file, [override]), key)
    assert got == value and type(got) is type(value)


def test_set_changes_one_key_and_leaves_its_neighbours(recipe_file):
    before, after = load_recipe(recipe_file), load_recipe(recipe_file, ["mask.ratio=0.5"])
    assert after.mask.min_block == 4
    assert after == before.model_copy(
        update={"mask": before.mask.model_copy(update={"ratio": 0.5})}
    )


def test_the_last_of_two_sets_counts(recipe_file):
    assert load_recipe(recipe_file, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize("steps", ["500", "'500'"])
def test_percent_is_of_the_steps_that_set_asks_for(recipe_file, steps):
    recipe = load_recipe(recipe_file, ["schedule.warmup_steps=10%", f"steps={steps}"])
    assert recipe.schedule.warmup_steps == 50


# What a wrong recipe is told: the key, what was received, what is allowed, who set it.


def both_ways(tmp_path, override):
    """The message for a value set by `--set`, and for the same value in the file."""
    key, text = override.split("=", 1)
    values = yaml.safe_load(SMALL)
    *groups, name = key.split(".")
    target = values
    for group in groups:
        target = target.setdefault(group, {})
    target[name] = yaml.safe_load(text)
    Path("own.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return message("recipe.yaml", override), message("own.yaml")


@pytest.mark.parametrize(
    ("override", "complaint", "hint"),
    [
        # unknown keys: a near miss, the right name in the wrong group, nothing like it
        ("optimizer.learning_rte=1", "no such key", " Did you mean optimizer.learning_rate?"),
        ("stepz=1", "no such key", " Did you mean steps?"),
        ("learning_rate=1", "no such key", " Did you mean optimizer.learning_rate?"),
        ("mask.learning_rate=1", "no such key", " Did you mean optimizer.learning_rate?"),
        ("zzz=1", "no such key", ""),
        # wrong types
        (
            "batch_size=many",
            "'many' does not fit: input should be a valid integer, "
            "unable to parse string as an integer",
            "",
        ),
        (
            "batch_size=1.5",
            "1.5 does not fit: input should be a valid integer, got a number with a fractional "
            "part",
            "",
        ),
        ("batch_size=null", "None does not fit: input should be a valid integer", ""),
        ("data.source=3", "3 does not fit: input should be a valid string", ""),
        (
            "data.flip=maybe",
            "'maybe' does not fit: input should be a valid boolean, unable to interpret input",
            "",
        ),
        ("data.mean=0.5", "0.5 does not fit: input should be a valid tuple", ""),
        # out of range, with the paper's value where it has one
        ("mask.ratio=1.5", "1.5 is not at most 1", " The paper uses 0.6."),
        ("mask.ratio=0", "0 is not above 0", " The paper uses 0.6."),
        (
            "data2vec.loss_beta=-1",
            "-1 is not at least 0",
            " The paper uses 2.",
        ),
        ("model.dropout=1", "1 is not below 1", ""),
        ("steps=0", "0 is not at least 1", ""),
        ("seed=-1", "-1 is not at least 0", ""),
        ("optimizer.learning_rate=0", "0 is not above 0", ""),
        (
            "optimizer.weight_decay=.nan",
            "nan does not fit: input should be a finite number",
            "",
        ),
        (
            "optimizer.learning_rate=.inf",
            "inf does not fit: input should be a finite number",
            "",
        ),
        # Python would count true as 1
        ("steps=true", "True does not fit: input should be a number", ""),
        ("optimizer.learning_rate=yes", "True does not fit: input should be a number", ""),
        ("data2vec.head_layers=true", "True does not fit: input should be a number", ""),
        # one of several words
        ("precision=fp16", "'fp16' is not one of 'float32', 'bfloat16' or 'auto'", ""),
        ("schedule.kind=linear", "'linear' is not one of 'cosine', 'tri_stage' or 'constant'", ""),
        (
            "data2vec.target_norm=group",
            "'group' is not one of 'layer', 'instance' or 'batch'",
            "",
        ),
        ("data2vec.head_layers=3", "3 is not one of 1 or 2", ""),
        ("xla=maybe", "'maybe' is not one of True, False, 'parts' or 'auto'", ""),
        (
            "schedule.kind=cosin",
            "'cosin' is not one of 'cosine', 'tri_stage' or 'constant'",
            " Did you mean cosine?",
        ),
        ("modality=speach", "'speach' is not one of vision, speech, text", ""),
        ("modality=[1]", "[1] is not one of vision, speech, text", ""),
        # durations
        ("schedule.warmup_steps=-1", "-1 is not at least 0", ""),
        (
            "schedule.warmup_steps=101%",
            "'101%' is not a part of steps between 0% and 100%",
            "",
        ),
        ("probe_every=x%", "'x%' is not a part of steps between 0% and 100%", ""),
        (
            "schedule.warmup_steps=0.05",
            "0.05 does not fit: input should be a valid integer, got a number with a fractional "
            "part",
            " Give updates, or a part of steps, as in 5%.",
        ),
        ("checkpoint_every=0%", "0 is not at least 1", ""),
        # values that do not fit each other
        ("model.num_heads=3", "3 does not divide model.hidden_dim 128", ""),
        ("data2vec.num_target_layers=5", "5 is more than model.num_layers 4", ""),
        ("accumulate=3", "3 does not divide batch_size 32", ""),
        ("model.patch_size=5", "5 does not divide the image, 32 x 32 pixels", ""),
        ("mask.min_block=39", "39 is more than the 38 of 64 patches to mask", ""),
        ("mask.num_masked=65", "65 is more than the 64 patches of an image", ""),
        ("data.mean=[0.5]", "1 numbers for 3 channels", ""),
        ("data.std=[1, 1, 1, 1]", "4 numbers for 3 channels", ""),
        ("data.crop_scale=[1, 0.5]", "1.0 is above 0.5", ""),
        ("data.crop_ratio=[2, 1]", "2.0 is above 1.0", ""),
    ],
)
def test_a_wrong_value_names_key_value_rule_and_who_set_it(
    recipe_file, tmp_path, override, complaint, hint
):
    key = override.split("=")[0]
    by_set, by_file = both_ways(tmp_path, override)
    assert by_set == f"{key}: {complaint} (set by --set, over recipe.yaml).{hint}"
    assert by_file == f"{key}: {complaint} (set by own.yaml).{hint}"


@pytest.mark.parametrize(
    ("override", "start"),
    [
        ("data.std=[1, 0, 1]", "data.std[1]: 0 is not above 0"),
        ("data.mean=[1, 2, b]", "data.mean[2]: 'b' does not fit"),
        ("data2vec.ema=[0.9, 0.99, -5%]", "data2vec.ema[2]: '-5%' is not a part of steps between"),
        ("data2vec.ema=[0.9, 1.1, 5]", "data2vec.ema[1]: 1.1 is not at most 1"),
        ("model.image_shape=[32, 0, 3]", "model.image_shape[1]: 0 is not at least 1"),
        ("model.image_shape=[32, 32]", "model.image_shape[2]: is missing"),
        ("model.image_shape=[1, 2, 3, 4]", "model.image_shape: [1, 2, 3, 4] does not fit"),
    ],
)
def test_a_wrong_item_of_a_list_is_numbered(recipe_file, tmp_path, override, start):
    by_set, by_file = both_ways(tmp_path, override)
    assert by_set.startswith(start) and by_set.endswith("(set by --set, over recipe.yaml).")
    assert by_file.startswith(start) and by_file.endswith("(set by own.yaml).")


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ("many", "steps: 'many' does not fit: input should be a valid integer"),
        ("null", "steps: None does not fit"),
        ("0", "steps: 0 is not at least 1"),
        ("true", "steps: True does not fit"),
    ],
)
def test_wrong_steps_are_blamed_on_steps_not_on_a_part_of_them(recipe_file, steps, told):
    assert message(recipe_file, "schedule.warmup_steps=5%", f"steps={steps}").startswith(told)


def test_missing_steps_are_blamed_on_steps_not_on_a_part_of_them(recipe_file):
    Path(recipe_file).write_text(SMALL.replace("steps: 1000\n", ""), encoding="utf-8")
    assert message(recipe_file, "schedule.warmup_steps=5%") == "steps: is missing from recipe.yaml."


def test_a_default_that_does_not_fit_is_blamed_on_neither(recipe_file):
    Path(recipe_file).write_text(
        SMALL.replace("mask: {ratio: 0.6, min_block: 4}\n", ""), encoding="utf-8"
    )
    assert message(recipe_file, "model.patch_size=8") == (
        "mask.min_block: 16 is more than the 10 of 16 patches to mask (the default; recipe.yaml "
        "has none)."
    )


def test_a_fault_of_the_file_is_not_blamed_on_set(recipe_file):
    Path(recipe_file).write_text(SMALL.replace("ratio: 0.6", "ratio: 1.5"), encoding="utf-8")
    told = message(recipe_file, "mask.min_block=3", "seed=1")
    assert "mask.ratio" in told and "(set by recipe.yaml)" in told


@pytest.mark.parametrize(
    ("line", "key"),
    [("batch_size: 32\n", "batch_size"), ("optimizer: {learning_rate: 0.001}\n", "optimizer")],
)
def test_a_missing_key_is_named_with_the_file(recipe_file, line, key):
    Path(recipe_file).write_text(SMALL.replace(line, ""), encoding="utf-8")
    told = message(recipe_file)
    assert told == f"{key}: is missing from recipe.yaml."


def test_a_missing_key_of_a_group_is_named_in_full(recipe_file):
    Path(recipe_file).write_text(SMALL.replace("patch_size: 4, ", ""), encoding="utf-8")
    assert message(recipe_file) == "model.patch_size: is missing from recipe.yaml."


@pytest.mark.parametrize(
    ("override", "value", "first_key"),
    [
        ("data=folder:photos", "'folder:photos'", "source"),  # --data is meant
        ("guard=3", "3", "after_steps"),  # a group that the file leaves out
        ("mask=", "None", "kind"),
        ("optimizer=[1]", "[1]", "name"),
    ],
)
def test_a_value_in_place_of_a_group_is_told_a_key(
    recipe_file, tmp_path, override, value, first_key
):
    key = override.split("=")[0]
    by_set, by_file = both_ways(tmp_path, override)
    complaint = f"{key}: {value} is a value, and {key} is a group of keys"
    hint = f"Set one of its keys, as in --set {key}.{first_key}=..."
    assert by_set == f"{complaint} (set by --set, over recipe.yaml). {hint}"
    assert by_file == f"{complaint} (set by own.yaml). {hint}"


def test_a_value_used_as_a_group(recipe_file):
    assert message(recipe_file, "steps.foo=3") == (
        "steps.foo: steps is a value, not a group (set by --set)."
    )
    assert message(recipe_file, "data2vec.ema.tau.x=3") == (
        "data2vec.ema.tau.x: data2vec.ema is a value, not a group (set by --set)."
    )


@pytest.mark.parametrize("override", ["steps", "=3", "", ".steps=3", "mask..ratio=1"])
def test_a_set_without_key_or_value(recipe_file, override):
    assert message(recipe_file, override) == (
        f"--set {override}: expected key=value, as in --set batch_size=64."
    )


@pytest.mark.parametrize("text", ["[1", "2026-13-45", "{a: 1, a: 2}"])  # a date in month 13
def test_a_set_that_is_not_yaml(recipe_file, text):
    assert message(recipe_file, f"steps={text}") == (
        f"--set steps={text}: {text!r} is not a YAML value."
    )


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (
            "data.sourc.x=1",
            "data.sourc: no such key (set by --set, over recipe.yaml). Did you mean data.source?",
        ),
        (
            "data2vec.ema[0]=0.9",
            "data2vec.ema[0]: no such key (set by --set, over recipe.yaml). "
            "Did you mean data2vec.ema?",
        ),
        ("data2vec.ema.0=0.9", "data2vec.ema.0: data2vec.ema is a value, not a group (set by "),
    ],
)
def test_a_set_of_a_part_that_has_no_key_of_its_own(recipe_file, override, told):
    assert message(recipe_file, override).startswith(told)


def test_a_dotted_key_in_a_file(recipe_file):
    Path(recipe_file).write_text(SMALL + "optimizer.beta_2: 0.98\n", encoding="utf-8")
    assert message(recipe_file) == (
        "optimizer.beta_2: no such key (set by recipe.yaml). "
        "In a file, groups nest, as in optimizer: {learning_rate: 0.001}."
    )


def test_a_key_that_is_not_text(recipe_file):
    Path(recipe_file).write_text(SMALL + "1: 2\n", encoding="utf-8")
    assert message(recipe_file) == "1: no such key (set by recipe.yaml)."


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SMALL + "steps: 5\n", "recipe.yaml, line 11: not a YAML file ('steps' is given twice)."),
        ("mask: {ratio: 1, ratio: 2}\n", "recipe.yaml, line 1: not a YAML file ('ratio' is given "),
        ("seed: 2026-13-45\n", "recipe.yaml: not a YAML file (month must be in 1..12)."),
    ],
)
def test_a_file_that_pyyaml_alone_would_misread(recipe_file, text, told):
    Path(recipe_file).write_text(text, encoding="utf-8")
    assert message(recipe_file).startswith(told)


def test_a_file_may_merge_an_anchor(recipe_file):
    merged = "guard: &g {after_steps: 5, min_pred_var: 0.02}\n"
    Path(recipe_file).write_text(
        SMALL.replace("mask: {", "mask: {<<: {ratio: 0.5, min_block: 3}, ") + merged,
        encoding="utf-8",
    )
    mask = load_recipe(recipe_file).mask  # a key beside << wins and is not "given twice"
    assert (mask.ratio, mask.min_block) == (0.6, 4)


def test_an_unknown_modality(recipe_file):
    Path(recipe_file).write_text("modality: smell\n", encoding="utf-8")
    assert (
        message(recipe_file)
        == "modality: 'smell' is not one of vision, speech, text (set by recipe.yaml)."
    )


def test_a_missing_file():
    assert message("nowhere.yaml") == (
        "nowhere.yaml: cannot be read (No such file or directory). Check --config."
    )


def test_a_folder_for_a_file(tmp_path):
    assert message(tmp_path) == f"{tmp_path}: cannot be read (Is a directory). Check --config."


def test_a_file_that_is_not_yaml_is_told_the_line(recipe_file):
    Path(recipe_file).write_text("steps: 3\nmodel: {a: 1\n", encoding="utf-8")
    told = message(recipe_file)
    assert told.startswith("recipe.yaml, line 3: not a YAML file (")


def test_a_file_that_is_not_text(recipe_file):
    Path(recipe_file).write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff\xfe")
    assert message(recipe_file) == "recipe.yaml: not a YAML file (not a text file)."


@pytest.mark.parametrize(
    ("text", "kind"), [("- 1\n- 2\n", "list"), ("hello\n", "str"), ("", "NoneType")]
)
def test_a_file_that_is_not_a_mapping(recipe_file, text, kind):
    Path(recipe_file).write_text(text, encoding="utf-8")
    assert message(recipe_file) == (
        f"recipe.yaml: a recipe is a mapping of keys to values. Received: {kind}."
    )


# Schedules.

TRI_STAGE = ("schedule.kind=tri_stage", "schedule.final_scale=0.05")


def test_a_tri_stage_that_fills_the_run(recipe_file):
    stages = [
        "schedule.warmup_steps=3%",
        "schedule.hold_steps=90%",
        "schedule.decay_steps=7%",
    ]
    schedule = load_recipe(recipe_file, [*TRI_STAGE, *stages]).schedule
    assert (schedule.warmup_steps, schedule.hold_steps, schedule.decay_steps) == (30, 900, 70)


def test_stages_longer_than_the_run(recipe_file):
    told = message(recipe_file, *TRI_STAGE, "schedule.hold_steps=90%", "schedule.decay_steps=61")
    assert told.startswith(
        "schedule: its stages take 1011 updates, more than the 1000 of steps (set by "
    )
    told = message(recipe_file, "schedule.warmup_steps=1001")
    assert told.startswith("schedule: its stages take 1001 updates, more than the 1000 of steps")


def test_a_tri_stage_that_decays_to_nothing(recipe_file):
    told = message(recipe_file, "schedule.kind=tri_stage")
    assert told.startswith("schedule.final_scale: 0.0 is not above 0")


def test_the_modality_of_the_flag_and_of_the_recipe_must_agree(recipe_file):
    with pytest.raises(ConfigError, match="is a recipe for vision, and --modality=speech"):
        load_recipe(recipe_file, modality="speech")
    assert load_recipe(recipe_file, modality="vision").modality == "vision"


@pytest.mark.parametrize("name", ["speech_base", "speech_tiny"])
def test_stages_in_percent_fit_every_number_of_steps(name):
    path = ROOT / "configs" / "pretrain" / f"{name}.yaml"
    for steps in range(4, 300):
        schedule = load_recipe(path, [f"steps={steps}"]).schedule
        total = schedule.warmup_steps + schedule.hold_steps + schedule.decay_steps
        assert steps - 2 <= total <= steps


@pytest.mark.parametrize("modality", ["vision", "text"])
def test_the_papers_value_is_that_of_the_modality(modality):
    path = ROOT / "configs" / "pretrain" / f"{modality}_tiny.yaml"
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, ["mask.ratio=1.5"])
    assert ("0.6" in str(caught.value)) == (modality == "vision")
    assert ("0.15" in str(caught.value)) == (modality == "text")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=5000000000", "seed: 5000000000 is not below 4.29497e+09"),
        ("model.image_shape=[32, 32, 1]", "1 channels are not the 3 that images have"),
    ],
)
def test_what_would_end_in_a_traceback_later(recipe_file, override, message):
    overrides = [override, "data.mean=[0.5]", "data.std=[0.5]"]
    with pytest.raises(ConfigError) as caught:
        load_recipe(recipe_file, overrides if "shape" in override else [override])
    assert message in str(caught.value)
