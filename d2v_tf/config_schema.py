"""What a recipe may hold: its keys, their types and ranges, and what must fit together."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError


def _refuse_bool(value):
    # Python counts True as 1, so "steps: true" would train for one update.
    if isinstance(value, bool):
        raise PydanticCustomError("number", "Input should be a number")
    return value


NotBool = BeforeValidator(_refuse_bool)
Number = Annotated[float, NotBool]
Fraction = Annotated[Number, Field(ge=0, le=1)]
Rate = Annotated[Number, Field(ge=0, lt=1)]
AboveZero = Annotated[Number, Field(gt=0)]
ZeroOrMore = Annotated[Number, Field(ge=0)]
Part = Annotated[Number, Field(gt=0, le=1)]
Positive = Annotated[int, NotBool, Field(ge=1)]
NonNegative = Annotated[int, NotBool, Field(ge=0)]
# Updates; a recipe may also give a part of `steps`, as in "10%", which loading resolves.
Duration = NonNegative


class Group(BaseModel):
    """A group of keys. Unknown keys are refused, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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


class BlockMask(Group):
    """Block-wise masks over a grid of patches."""

    kind: Literal["block"] = "block"
    ratio: Part = 0.6
    num_masked: Positive | None = None
    min_block: Positive = 16
    max_aspect: Annotated[Number, Field(ge=1)] = 1 / 0.3


class Data2VecGroup(Group):
    """The learning rule; the arguments of `Data2Vec`."""

    num_target_layers: Positive
    target_features: Literal["ffn", "block"] = "ffn"
    target_norm: Literal["layer", "instance", "batch"] | None = "layer"
    normalize_average: bool = False
    loss_beta: ZeroOrMore = 0.0
    loss_scale: AboveZero | None = None
    ema: tuple[Fraction, Fraction, Duration]
    head_layers: Annotated[Literal[1, 2], NotBool] = 1


class OptimizerGroup(Group):
    """Adam with decoupled weight decay."""

    name: Literal["adam", "adamw"] = "adamw"
    learning_rate: AboveZero
    beta_1: Rate = 0.9
    beta_2: Rate = 0.999
    epsilon: AboveZero = 1e-8
    weight_decay: ZeroOrMore = 0.0
    global_clipnorm: AboveZero | None = None


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


class GuardGroup(Group):
    """When a run counts as collapsed."""

    after_steps: Duration = 5000
    min_target_var: ZeroOrMore = 0.1
    min_pred_var: ZeroOrMore = 0.01


class Recipe(Group):
    """Everything that decides what a run computes."""

    seed: NonNegative = 0
    steps: Positive
    batch_size: Positive
    accumulate: Positive = 1
    precision: Literal["float32", "bfloat16", "auto"] = "auto"
    xla: Literal[True, False, "auto"] = "auto"
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
DURATIONS = (
    ("data2vec", "ema", 2),
    ("schedule", "warmup_steps"),
    ("schedule", "hold_steps"),
    ("schedule", "decay_steps"),
    ("guard", "after_steps"),
    ("probe_every",),
    ("checkpoint_every",),
)
# What the paper uses, named when a value is out of range.
PAPER = {
    "mask.ratio": "The paper uses 0.6.",
    "data2vec.loss_beta": "The paper uses 2 for vision, 0 for speech, 4 for text.",
}
