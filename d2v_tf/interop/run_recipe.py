"""What a fine-tuning run says about its model's input, and the model itself does not."""

import os

import yaml

from d2v_tf.data.glue import glue_task


def trained_on_pairs(path):
    """Whether a model was fine-tuned on pairs of texts.

    Args:
        path: str. A run's folder, or the preset in it.

    Returns:
        bool; `None` where no run of fine-tuning is there to say it.
    """
    recipe = _recipe_of(path)
    if recipe is None:
        return None
    if recipe["task"].startswith("glue:"):
        columns = glue_task(recipe["task"].removeprefix("glue:")).columns
        return columns.second_sentence is not None
    columns = (recipe.get("data") or {}).get("columns") or {}
    return columns.get("second_sentence") is not None


def measured_seconds(path):
    """Of how many seconds a run measured its classifier or tagger: of longer recordings the middle.

    Args:
        path: as for `trained_on_pairs`.

    Returns:
        float; `None` where recordings are measured whole, or no run is there to say it.
    """
    recipe = _recipe_of(path)
    if recipe is None or recipe.get("modality") != "speech" or recipe["task"] == "ctc":
        return None
    return (recipe.get("data") or {}).get("max_seconds")


def _recipe_of(path):
    """The recipe of the fine-tuning run of a path, a dict with a `task`, or `None`."""
    for folder in (path, os.path.dirname(os.path.abspath(path))):
        file = os.path.join(folder, "config.yaml")
        if os.path.isfile(file):
            with open(file, encoding="utf-8") as opened:
                recipe = yaml.safe_load(opened) or {}
            is_finetuning = isinstance(recipe, dict) and isinstance(recipe.get("task"), str)
            return recipe if is_finetuning else None
    return None
