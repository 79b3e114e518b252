"""What a speech recipe holds, and what in it must fit together."""

from typing import Annotated, Literal

from pydantic import Field

from d2v_tf.schema.common import (
    AboveZero,
    Fraction,
    Group,
    NonNegative,
    NotBool,
    Number,
    Positive,
    Rate,
    Recipe,
    ZeroOrMore,
)

# Seven convolutions, as the published models have them.
Layers = tuple[Positive, ...]


class SpeechModel(Group):
    """The arguments of `Data2VecSpeechBackbone`."""

    num_layers: Positive
    hidden_dim: Positive
    num_heads: Positive
    intermediate_dim: Positive
    conv_dims: Layers = (512,) * 7
    conv_kernel_sizes: Layers = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: Layers = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    position_conv_layers: Positive = 5
    position_conv_kernel_size: Positive = 19
    position_conv_groups: Positive = 16
    dropout: Rate = 0.0
    attention_dropout: Rate = 0.0
    activation_dropout: Rate = 0.0
    feature_dropout: Rate = 0.0
    layer_drop: Rate = 0.0
    feature_grad_mult: ZeroOrMore = 1.0
    layer_norm_epsilon: AboveZero = 1e-5
    activation: Literal["gelu", "relu", "silu"] = "gelu"
    padding: Literal["invariant", "reference"] = "invariant"


class SpanMask(Group):
    """Spans of frames."""

    kind: Literal["span"] = "span"
    start_ratio: Annotated[Number, Field(gt=0, lt=1)] = 0.065
    span_length: Positive = 10
    min_spans: NonNegative = 1
    # Whether all examples of a batch keep as many masked frames as the one with fewest.
    equal_counts: bool = False


class SpeechData(Group):
    """Where speech comes from and how it is batched."""

    source: str = "builtin"
    eval_source: str | None = None
    tfds_dir: str | None = None
    cache_dir: str | None = None
    max_bad: Fraction = 0.01
    shuffle: bool = True
    probe_examples: Positive = 10000
    min_seconds: AboveZero = 2.0
    max_seconds: AboveZero = 20.0
    # How many lengths batches have, or these lengths in seconds.
    buckets: Annotated[int, NotBool, Field(ge=1, le=40)] | tuple[AboveZero, ...] = 4
    # What sizes of batches are multiples of. If auto, the number of replicas when the run starts,
    # and 8, 4 or 2 where that leaves out little: it may go on with another number of them.
    size_multiple: Literal["auto"] | Positive = "auto"


class SpeechRecipe(Recipe):
    """A recipe for raw waveforms.

    `batch_size` counts utterances of `data.max_seconds`: shorter ones come more to a batch, so that
    every batch holds about the same audio.
    """

    modality: Literal["speech"]
    model: SpeechModel
    mask: SpanMask = SpanMask()
    data: SpeechData = SpeechData()

    def problems(self):
        """Pairs (key, what is wrong) of values that do not fit each other."""
        model, data = self.model, self.data
        layers = len(model.conv_dims)
        for key in ("conv_kernel_sizes", "conv_strides"):
            if len(getattr(model, key)) != layers:
                yield (
                    f"model.{key}",
                    f"{len(getattr(model, key))} numbers for the {layers} of model.conv_dims",
                )
        if model.hidden_dim % model.position_conv_groups:
            yield (
                "model.position_conv_groups",
                f"{model.position_conv_groups} does not divide model.hidden_dim {model.hidden_dim}",
            )
        if data.min_seconds > data.max_seconds:
            yield "data.min_seconds", f"{data.min_seconds} is above data.max_seconds"
        if not isinstance(data.buckets, int) and max(data.buckets, default=0) > data.max_seconds:
            yield "data.buckets", f"{max(data.buckets)} is above data.max_seconds"
