"""The text recipes: the paper's row to the digit, and what does not fit."""

from pathlib import Path

import pydantic
import pytest
import yaml

from d2v_tf.backbones.text import Data2VecTextBackbone
from d2v_tf.pretraining.data2vec import Data2Vec
from d2v_tf.schema.text import TextRecipe

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "pretrain"


def read(name):
    return yaml.safe_load((CONFIGS / f"text_{name}.yaml").read_text())


def test_the_base_recipe_is_the_papers_row():
    recipe = TextRecipe.model_validate(read("base"))
    assert (recipe.steps, recipe.batch_size) == (1_000_000, 256)
    model = recipe.model
    assert (model.num_layers, model.hidden_dim, model.num_heads) == (12, 768, 12)
    assert (model.intermediate_dim, model.max_sequence_length) == (3072, 512)
    assert (model.dropout, model.attention_dropout, model.vocabulary_size) == (0.1, 0.1, 50265)
    mask = recipe.mask
    assert (mask.ratio, mask.span_length, mask.random_part, mask.keep_part) == (0.15, 1, 0.1, 0.1)
    rule = recipe.data2vec
    assert (rule.num_target_layers, rule.loss_beta, rule.loss_scale) == (10, 4.0, 1.0)
    assert (rule.target_features, rule.target_norm, rule.normalize_average) == (
        "ffn",
        "layer",
        False,
    )
    assert (rule.head_layers, rule.ema) == (2, (0.999, 0.9999, 100_000))
    optimizer = recipe.optimizer
    assert (optimizer.learning_rate, optimizer.weight_decay, optimizer.global_clipnorm) == (
        2e-4,
        0.01,
        5.0,
    )
    assert (optimizer.beta_1, optimizer.beta_2, optimizer.epsilon) == (0.9, 0.98, 1e-6)
    schedule = recipe.schedule
    assert schedule.kind == "tri_stage"
    assert (schedule.warmup_steps, schedule.hold_steps, schedule.decay_steps) == (
        50_000,
        800_000,
        150_000,
    )


def test_the_base_recipe_names_the_papers_other_mask():
    (line,) = [
        x for x in (CONFIGS / "text_base.yaml").read_text().split("\n") if x.startswith("# mask:")
    ]
    mask = yaml.safe_load(line.removeprefix("# ").split("  #")[0])["mask"]
    recipe = TextRecipe.model_validate({**read("base"), "mask": mask})
    assert (recipe.mask.ratio, recipe.mask.span_length) == (0.35, 4)
    assert (recipe.mask.random_part, recipe.mask.keep_part) == (0.0, 0.0)


def test_the_tiny_recipe_builds():
    values = read("tiny")
    values["data2vec"]["ema"][2] = 10
    values["schedule"]["warmup_steps"] = values["probe_every"] = 1
    recipe = TextRecipe.model_validate(values)
    backbone = Data2VecTextBackbone(**recipe.model.model_dump())
    model = Data2Vec(backbone, **recipe.data2vec.model_dump())
    assert backbone.output_shape == (None, None, recipe.model.hidden_dim)
    assert len(model.head.layers) == 2


@pytest.mark.parametrize(
    ("group", "values", "key"),
    [
        ("mask", {"random_part": 0.6, "keep_part": 0.5}, "mask.random_part"),
        ("mask", {"span_length": 200}, "mask.span_length"),
        ("model", {"padding_token_id": 4096}, "model.padding_token_id"),
    ],
)
def test_values_that_do_not_fit_each_other(group, values, key):
    content = read("tiny")
    content["data2vec"]["ema"][2] = content["schedule"]["warmup_steps"] = 0
    content["probe_every"] = 0
    assert list(TextRecipe.model_validate(content).problems()) == []
    content[group].update(values)
    assert [k for k, _ in TextRecipe.model_validate(content).problems()] == [key]


@pytest.mark.parametrize(
    ("group", "values"),
    [
        ("model", {"vocabulary_size": 260}),
        ("mask", {"ratio": 0.0}),
        ("mask", {"kind": "block"}),
        ("mask", {"spans": 4}),
    ],
)
def test_what_is_out_of_range_or_unknown_is_refused(group, values):
    content = read("base")
    content[group].update(values)
    with pytest.raises(pydantic.ValidationError):
        TextRecipe.model_validate(content)
