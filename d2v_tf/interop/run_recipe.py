"""What a fine-tuning run says about its model's input, and the model itself does not."""

import os

import yaml

from d2v_tf.data.glue import glue_task
from d2v_tf.data.reading import DataError


def trained_on_pairs(path):
    """Whether a model was fine-tuned on pairs of texts.

    Args:
        path: str. A run's folder, or the preset in it.

    Returns:
        bool; `None` where no run of fine-tuning is there to say it.
    """
    recipe = _recipe_of(path)
    if recipe is None or recipe["modality"] != "text":
        return None if recipe is None else False
    if recipe["task"].startswith("glue:"):
        try:
            columns = glue_task(recipe["task"].removeprefix("glue:")).columns
        except DataError:
            return None
        return columns.second_sentence is not None
    columns = recipe["data"].get("columns")
    return isinstance(columns, dict) and columns.get("second_sentence") is not None


def answers_pairs(model, path):
    """Whether a text model was fine-tuned on pairs of texts.

    Args:
        model: a model. Its preprocessor says it, if it was written with one that does.
        path: optional str. Where the model was read; else the run there says it.

    Returns:
        bool; `None` where neither says it.
    """
    said = getattr(getattr(model, "preprocessor", None), "pairs", None)
    return trained_on_pairs(path) if said is None and path is not None else said


def training_source(path):
    """The `SOURCE` that a model was fine-tuned on.

    Args:
        path: as for `trained_on_pairs`.

    Returns:
        str; `None` where no run is there to say it.
    """
    recipe = _recipe_of(path)
    return None if recipe is None else recipe["data"].get("source")


def measured_seconds(path):
    """Of how many seconds a run measured its classifier or tagger: of longer recordings the middle.

    Args:
        path: as for `trained_on_pairs`.

    Returns:
        float; `None` where recordings are measured whole, or no run is there to say it.
    """
    recipe = _recipe_of(path)
    if recipe is None or recipe["modality"] != "speech" or recipe["task"] == "ctc":
        return None
    return recipe["data"].get("max_seconds")


def _recipe_of(path):
    """The recipe of the fine-tuning run of a path, or `None`: others' files have its name, too.

    Returns:
        dict with a str of `modality` and of `task`, and a dict of `data`.
    """
    for folder in (path, os.path.dirname(os.path.abspath(path))):
        file = os.path.join(folder, "config.yaml")
        if os.path.isfile(file):
            return _read_recipe(file)
    return None


def _read_recipe(file):
    try:
        with open(file, encoding="utf-8") as opened:
            recipe = yaml.safe_load(opened)
    except (OSError, ValueError, yaml.YAMLError):
        return None
    if not isinstance(recipe, dict):
        return None
    recipe = {"data": {}, **recipe}
    kinds = {"modality": str, "task": str, "data": dict}
    fits = all(isinstance(recipe.get(key), kind) for key, kind in kinds.items())
    return recipe if fits else None
