"""What a recipe for fine-tuning holds."""

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from d2v_tf.schema.common import (
    AboveZero,
    Fraction,
    Group,
    NonNegative,
    Number,
    OptimizerGroup,
    Part,
    Positive,
    Rate,
    ScheduleGroup,
    Seed,
    ZeroOrMore,
)


def _check_updates(value):
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            if 0 <= float(value.strip()[:-1]) <= 100:
                return value.strip()
        except ValueError:
            pass
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise PydanticCustomError("updates", "Input should be updates, or a part of them, as in 5%")


def _check_some_updates(value):
    value = _check_updates(value)
    if value == 0 or (isinstance(value, str) and float(value[:-1]) == 0):
        raise PydanticCustomError("updates", "Input should be above 0")
    return value


# Updates, or a part of the run, such as "10%".
_PARTS = (BeforeValidator(_check_updates), BeforeValidator(_check_some_updates))
Updates = Annotated[int | str, _PARTS[0]]
SomeUpdates = Annotated[int | str, _PARTS[1]]
Magnitude = Annotated[Number, Field(ge=0, le=10)]


def resolve_durations(recipe, steps):
    """Puts numbers of updates where a recipe for fine-tuning has parts of the run.

    Args:
        recipe: a `FinetuneRecipe`.
        steps: int. Updates of the whole run.

    Returns:
        The recipe with `steps`, and without a `%`.
    """

    def resolve(group):
        changes = {}
        for name, field in type(group).model_fields.items():
            value = getattr(group, name)
            if isinstance(value, Group):
                changes[name] = resolve(value)
            elif isinstance(value, str) and any(part in field.metadata for part in _PARTS):
                part = float(value[:-1]) / 100
                changes[name] = max(1, round(part * steps)) if part else 0
        if isinstance(group, FinetuneSchedule):
            changes |= _without_excess({**dict(group), **changes}, changes, steps)
        return group.model_copy(update=changes)

    return resolve(recipe).model_copy(update={"steps": steps})


STAGES = ("warmup_steps", "hold_steps", "decay_steps")


def _without_excess(schedule, rounded, steps):
    """Stages that were rounded one by one must not be longer than the run together."""
    excess = sum(schedule[name] for name in STAGES) - steps
    if not 0 < excess <= len(rounded):  # more is no matter of rounding
        return {}
    lengths = {name: schedule[name] for name in rounded}
    for _ in range(excess):
        lengths[max(lengths, key=lengths.get)] -= 1
    return lengths


def duration_problems(recipe, steps):
    """Pairs (key, what is wrong) of durations that do not fit into a run of so many updates."""
    freeze, schedule = recipe.freeze.backbone_steps, resolve_durations(recipe, steps).schedule
    stages = STAGES if schedule.kind == "tri_stage" else STAGES[:1]
    length = sum(getattr(schedule, name) for name in stages)
    if length > steps:
        yield "schedule", f"its stages take {length:,} updates, more than the {steps:,} of the run"
    # As a part of the run, 100% may be meant: only the head is trained. From scratch it is ignored.
    if isinstance(freeze, int) and freeze >= steps and recipe.init != "scratch":
        yield (
            "freeze.backbone_steps",
            f"{freeze:,} of {steps:,} updates would leave the backbone as it is. Give fewer, 0 to "
            "train it from the start, or 100% to train the head alone",
        )


class FinetuneOptimizer(OptimizerGroup):
    """Adam with decoupled weight decay and rates by layer."""

    layer_decay: Part = 1.0
    backbone_scale: ZeroOrMore = 1.0


class FinetuneSchedule(ScheduleGroup):
    """How the learning rate changes over the run."""

    kind: Literal["cosine", "linear", "tri_stage", "constant"] = "cosine"
    warmup_steps: Updates = 0
    hold_steps: Updates = 0
    decay_steps: Updates = 0


class Freeze(Group):
    """What is not trained."""

    frontend: bool = False  # of speech its convolutions only
    backbone_steps: Updates = 0


class FinetuneRecipe(Group):
    """Everything that decides what a fine-tuning run computes."""

    accumulate: ClassVar[int] = 1  # no key: an update's batch is computed whole

    task: str
    init: str = "scratch"
    scratch: str  # the recipe for pre-training whose model starts from scratch
    seed: Seed = 0
    steps: Positive | None = None
    epochs: AboveZero | None = None
    batch_size: Positive
    precision: Literal["float32", "bfloat16", "auto"] = "auto"
    xla: Literal[True, False, "parts", "auto"] = "auto"  # parts: see `Data2Vec`, compile_parts
    log_every: Positive = 10
    checkpoint_every: SomeUpdates = "10%"
    keep_checkpoints: Positive = 2
    evaluate_every: SomeUpdates = "10%"
    patience: NonNegative = 0  # evaluations without a better score; 0 = never stops early
    label_fraction: Part = 1.0
    optimizer: FinetuneOptimizer
    schedule: FinetuneSchedule = FinetuneSchedule()
    freeze: Freeze = Freeze()

    def problems(self):
        """Pairs (key, what is wrong) of values that do not fit each other."""
        if (self.steps is None) == (self.epochs is None):
            yield (
                "steps",
                f"{self.steps} with epochs {self.epochs}: give one of the two, and null for the "
                "other (--set epochs=null)",
            )
        if self.schedule.kind == "tri_stage" and self.schedule.final_scale == 0:
            yield "schedule.final_scale", "0.0 is not above 0, which an exponential decay needs"
        if self.steps is not None:  # else once it is known how many updates an epoch has
            yield from duration_problems(self, self.steps)


class FinetuneVisionModel(Group):
    """Regularization of the backbone; what is not given stays as it was pre-trained."""

    dropout: Rate | None = None
    attention_dropout: Rate | None = None
    drop_path_rate: Rate | None = None


class VisionHead(Group):
    """The classifier on the backbone."""

    pooling: Literal["mean", "token"] = "mean"
    dropout: Rate = 0.0
    label_smoothing: Rate = 0.0


class FinetuneVisionData(Group):
    """Where labelled images come from and how they are changed."""

    source: str = "builtin"
    eval_source: str | None = None
    tfds_dir: str | None = None
    max_bad: Fraction = 0.01
    image_size: Positive | None = None  # a side in pixels; the backbone's where it is not given
    crop_scale: tuple[Part, Part] = (0.08, 1.0)
    crop_ratio: tuple[AboveZero, AboveZero] = (3 / 4, 4 / 3)
    flip: bool = True
    color_jitter: Rate = 0.0
    rand_augment: tuple[Positive, Magnitude] | None = None  # operations, and how strong
    erasing: Fraction = 0.0
    mixup: ZeroOrMore = 0.0
    cutmix: Fraction = 0.0
    mean: tuple[Number, ...] | None = None  # the backbone's where they are not given
    std: tuple[AboveZero, ...] | None = None


class FinetuneVisionRecipe(FinetuneRecipe):
    """A recipe for labelled images."""

    modality: Literal["vision"] = "vision"
    task: Literal["classify"] = "classify"
    scratch: str = "vision_tiny"
    model: FinetuneVisionModel = FinetuneVisionModel()
    head: VisionHead = VisionHead()
    data: FinetuneVisionData = FinetuneVisionData()

    def problems(self):
        """As of any recipe; and what a pixel is normalized by, of which each channel has one."""
        yield from super().problems()
        for key in ("mean", "std"):
            values = getattr(self.data, key)
            if values is not None and len(values) != 3:
                yield f"data.{key}", f"{len(values)} numbers for the 3 channels of an image"


class FinetuneSpeechModel(Group):
    """Regularization of the backbone; what is not given stays as it was pre-trained."""

    dropout: Rate | None = None
    attention_dropout: Rate | None = None
    activation_dropout: Rate | None = None
    feature_dropout: Rate | None = None
    layer_drop: Rate | None = None


class SpeechHead(Group):
    """The layers on the backbone, and the masks on its features."""

    dropout: Rate = 0.0
    label_smoothing: Rate = 0.0
    time_mask_ratio: Rate = 0.0
    time_mask_length: Positive = 10
    channel_mask_ratio: Rate = 0.0
    channel_mask_length: Positive = 64


class FinetuneSpeechData(Group):
    """Where labelled or transcribed recordings come from."""

    source: str = "builtin"
    eval_source: str | None = None
    label: str | None = None  # which of the source's labels; the first where it is not given
    tfds_dir: str | None = None
    cache_dir: str | None = None
    max_bad: Fraction = 0.01
    min_seconds: ZeroOrMore = 0.1
    max_seconds: AboveZero = 20.0
    buckets: Positive | tuple[AboveZero, ...] = 3
    size_multiple: Literal["auto"] | Positive = "auto"  # of ctc's batches; as for pre-training
    mixup: ZeroOrMore = 0.0


class FinetuneSpeechRecipe(FinetuneRecipe):
    """A recipe for labelled or transcribed recordings."""

    modality: Literal["speech"] = "speech"
    task: Literal["classify", "tag", "ctc"] = "classify"
    scratch: str = "speech_tiny"
    model: FinetuneSpeechModel = FinetuneSpeechModel()
    head: SpeechHead = SpeechHead()
    data: FinetuneSpeechData = FinetuneSpeechData()

    def problems(self):
        """As of any recipe; and keys that this task has no use for."""
        yield from super().problems()
        if self.task == "ctc":
            for key, value in (
                ("head.label_smoothing", self.head.label_smoothing),
                ("data.mixup", self.data.mixup),
                ("data.label", self.data.label),
            ):
                if value:
                    yield key, f"{value} is of no use to the task ctc"
        elif self.data.size_multiple != "auto":
            yield "data.size_multiple", f"{self.data.size_multiple} is of use to the task ctc alone"


class FinetuneTextModel(Group):
    """Regularization of the backbone; what is not given stays as it was pre-trained."""

    dropout: Rate | None = None
    attention_dropout: Rate | None = None


class TextHead(Group):
    """The classifier on the backbone."""

    pooling: Literal["token", "mean"] = "token"
    dropout: Rate = 0.0
    label_smoothing: Rate = 0.0


class TextColumns(Group):
    """Where in a table texts and labels stand: names in its first line, or numbers from 0."""

    sentence: str | NonNegative = "sentence"
    second_sentence: str | NonNegative | None = None
    label: str | NonNegative = "label"
    regression: bool = False


class FinetuneTextData(Group):
    """Where labelled text comes from."""

    source: str
    eval_source: str | None = None
    columns: TextColumns = TextColumns()
    tfds_dir: str | None = None
    max_bad: Fraction = 0.01
    tokenizer: str | None = None  # the backbone's where it is not given
    max_length: Positive | None = None  # tokens; as many as the backbone takes where not given
    buckets: Positive = 4


class FinetuneTextRecipe(FinetuneRecipe):
    """A recipe for labelled sentences, pairs of them, and documents."""

    modality: Literal["text"] = "text"
    task: Annotated[str, Field(pattern=r"^(classify|glue:.+)$")] = "classify"
    scratch: str = "text_tiny"
    model: FinetuneTextModel = FinetuneTextModel()
    head: TextHead = TextHead()
    data: FinetuneTextData

    def problems(self):
        """As of any recipe; and keys that GLUE's tasks have no use for."""
        yield from super().problems()
        if self.task.startswith("glue:"):
            if self.data.eval_source is not None:
                yield (
                    "data.eval_source",
                    f"{self.data.eval_source} is of no use to {self.task}, which is measured on "
                    "the dev set in data.source",
                )
            if self.data.columns != TextColumns():
                yield "data.columns", f"they are of no use to {self.task}, which knows its own"
