"""What is particular to a modality, for the run that is the same for all: one entry each."""

import dataclasses
from collections.abc import Callable

from d2v_tf.backbones.vision import Data2VecVisionBackbone
from d2v_tf.training.vision import VisionData, max_masked_patches


@dataclasses.dataclass(frozen=True)
class Modality:
    """The parts that a run needs.

    Attributes:
        backbone: class, built with a recipe's `model` group.
        open_data: recipe -> the data of the run, as `training/vision.py` gives it.
        max_masked: recipe -> the most masked positions of an example.
    """

    backbone: type
    open_data: Callable
    max_masked: Callable


MODALITIES = {
    "vision": Modality(Data2VecVisionBackbone, VisionData, max_masked_patches),
}
