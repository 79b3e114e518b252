"""What a vision recipe holds, and what in it must fit together."""

from typing import Annotated, Literal

from pydantic import Field

from d2v_tf.schema.common import (
    AboveZero,
    Fraction,
    Group,
    Number,
    Part,
    Positive,
    Rate,
    Recipe,
)


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
    layer_scale_init_value: AboveZero | None = None
    layer_norm_epsilon: AboveZero = 1e-6
    activation: Literal["gelu", "relu", "silu"] = "gelu"
    relative_position_bias: Literal["per_block", "shared"] | None = "per_block"
    absolute_position: bool = False
    final_norm: bool = True  # published models have it where they are not fine-tuned on the mean


class BlockMask(Group):
    """Block-wise masks over a grid of patches."""

    kind: Literal["block"] = "block"
    ratio: Part = 0.6
    num_masked: Positive | None = None
    min_block: Positive = 16
    max_aspect: Annotated[Number, Field(ge=1)] = 1 / 0.3


class VisionData(Group):
    """Where images come from and how they are changed."""

    source: str = "builtin"
    eval_source: str | None = None
    tfds_dir: str | None = None
    max_bad: Fraction = 0.01
    shuffle: bool = True
    probe_examples: Positive = 10000
    crop_scale: tuple[Part, Part] = (
        0.08,
        1.0,
    )
    crop_ratio: tuple[AboveZero, AboveZero] = (
        3 / 4,
        4 / 3,
    )
    flip: bool = True
    color_jitter: Rate = 0.4
    mean: tuple[Number, ...] = (0.5, 0.5, 0.5)
    std: tuple[AboveZero, ...] = (0.5, 0.5, 0.5)


class VisionRecipe(Recipe):
    """A recipe for images."""

    modality: Literal["vision"] = "vision"
    model: VisionModel
    mask: BlockMask = BlockMask()
    data: VisionData = VisionData()

    def problems(self):
        """Pairs (key, what is wrong) of values that do not fit each other."""
        height, width, channels = self.model.image_shape
        if channels != 3:
            yield "model.image_shape", f"{channels} channels are not the 3 that images have"
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
