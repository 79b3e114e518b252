"""What the recipes of all modalities hold: keys, their types and their ranges."""

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
Seed = Annotated[int, NotBool, Field(ge=0, lt=2**32)]
# Updates; a recipe may also give a part of `steps`, as in "10%", which loading resolves.
Duration = NonNegative


class Group(BaseModel):
    """A group of keys. Unknown keys are refused, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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


class GuardGroup(Group):
    """When a run counts as collapsed."""

    after_steps: Duration = 5000
    min_target_var: ZeroOrMore = 0.1
    min_pred_var: ZeroOrMore = 0.01
    min_frontend_var: ZeroOrMore = 0.0


# What a recipe's `xla` is called.
COMPILERS = {True: "XLA", False: "graph", "parts": "graph, parts by XLA"}


class Recipe(Group):
    """Everything that decides what a run computes."""

    seed: Seed = 0
    steps: Positive
    # Weights to start from, what `d2v_tf.load_backbone` reads; without, they are random.
    init: Annotated[str, Field(min_length=1)] | None = None
    batch_size: Positive
    accumulate: Positive = 1
    remat: bool = False  # less memory, more time: see `Data2Vec`
    precision: Literal["float32", "bfloat16", "auto"] = "auto"
    xla: Literal[True, False, "parts", "auto"] = "auto"  # parts: see `Data2Vec`, compile_parts
    log_every: Positive = 10
    checkpoint_every: Positive = 1000
    keep_checkpoints: Positive = 3
    keep_every: Duration = 0  # updates whose checkpoints are kept for good; 0 = none
    probe_every: Duration = 0  # 0 = after the last update only
    data2vec: Data2VecGroup
    optimizer: OptimizerGroup
    schedule: ScheduleGroup = ScheduleGroup()
    guard: GuardGroup = GuardGroup()
