"""What is particular to a modality, for the run that is the same for all: one entry each."""

import dataclasses
import importlib
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Modality:
    """The parts that a run needs.

    Attributes:
        backbone: class, built with a recipe's `model` group.
        open_data: (recipe, warn) -> the data of the run, as `training/vision.py` gives it.
        max_masked: recipe -> the most masked positions of an example, or a function of T.
    """

    backbone: type
    open_data: Callable
    max_masked: Callable


# Modules with a `MODALITY`, imported when they are asked for: each brings its own libraries.
MODULES = {
    "vision": "d2v_tf.training.vision",
    "speech": "d2v_tf.training.speech",
    "text": "d2v_tf.training.text",
}
# Modules with a `TASKS`, from the kind of a recipe's task to the class of its data.
TASK_MODULES = {
    "vision": "d2v_tf.training.finetune_vision",
    "speech": "d2v_tf.training.finetune_speech",
    "text": "d2v_tf.training.finetune_text",
}


def modality_of(recipe):
    """The `Modality` of a recipe."""
    return importlib.import_module(MODULES[recipe.modality]).MODALITY


def backbone_class_of(modality):
    """The class of a modality's backbones."""
    return importlib.import_module(MODULES[modality]).MODALITY.backbone


def task_data(recipe):
    """The class of the data of a fine-tuning recipe's task, a `LabelledData`."""
    kind = recipe.task.split(":")[0]
    return importlib.import_module(TASK_MODULES[recipe.modality]).TASKS[kind]
