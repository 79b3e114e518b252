"""What a text recipe holds, and what in it must fit together."""

from typing import Annotated, Literal

from pydantic import Field

from d2v_tf.schema.common import (
    AboveZero,
    Fraction,
    Group,
    NonNegative,
    NotBool,
    Part,
    Positive,
    Rate,
    Recipe,
)


class TextModel(Group):
    """The arguments of `Data2VecTextBackbone`."""

    vocabulary_size: Annotated[int, NotBool, Field(ge=261)]  # 256 bytes and 5 special tokens
    max_sequence_length: Annotated[int, NotBool, Field(ge=8)]
    num_layers: Positive
    hidden_dim: Positive
    num_heads: Positive
    intermediate_dim: Positive
    dropout: Rate = 0.1
    attention_dropout: Rate = 0.1
    layer_norm_epsilon: AboveZero = 1e-5
    activation: Literal["gelu", "relu", "silu"] = "gelu"
    padding_token_id: NonNegative = 1
    token_stddev: AboveZero = 0.02
    position_initializer: Literal["normal", "sinusoidal"] = "normal"
    position_stddev: AboveZero = 0.02


class TokenMask(Group):
    """Tokens masked one by one, or in spans; the arguments of `token_mask`."""

    kind: Literal["token"] = "token"
    ratio: Part = 0.15
    span_length: Positive = 1
    random_part: Fraction = 0.1
    keep_part: Fraction = 0.1


class TextData(Group):
    """Where text comes from."""

    source: str = "builtin"
    tokenizer: str | None = None  # for text that is not prepared; without it, one is trained
    # Folders, each with the labelled tables train.tsv and dev.tsv, columns sentence and label.
    probe_folders: tuple[str, ...] = ()
    max_bad: Fraction = 0.01
    shuffle: bool = True
    probe_examples: Positive = 10000


class TextRecipe(Recipe):
    """A recipe for text."""

    modality: Literal["text"]
    model: TextModel
    mask: TokenMask = TokenMask()
    data: TextData = TextData()

    def problems(self):
        """Pairs (key, what is wrong) of values that do not fit each other."""
        mask = self.mask
        if mask.random_part + mask.keep_part > 1:
            yield (
                "mask.random_part",
                f"{mask.random_part} and mask.keep_part {mask.keep_part} are more than all of the "
                "masked tokens",
            )
        if mask.span_length > self.model.max_sequence_length:
            yield (
                "mask.span_length",
                f"{mask.span_length} is more than model.max_sequence_length "
                f"{self.model.max_sequence_length}",
            )
        if self.model.padding_token_id >= self.model.vocabulary_size:
            yield (
                "model.padding_token_id",
                f"{self.model.padding_token_id} is not below model.vocabulary_size "
                f"{self.model.vocabulary_size}",
            )
