"""Strings in a request, as the backbone's input."""

import numpy as np
import tensorflow as tf

from d2v_tf.data.tokenization import Data2VecTextTokenizer
from d2v_tf.exporting.requests import ExportError, Requests, check_as_many, check_each
from d2v_tf.exporting.word_cache import bounded
from d2v_tf.finetuning.text_preprocessor import Data2VecTextClassifierPreprocessor

# Letters that are read for every token that a model takes: no language has words that long, and
# what follows would be cut anyway. Splitting takes memory for all words times the longest.
LETTERS_A_TOKEN = 32
STRINGS = tf.TensorSpec([None], tf.string)


def text_requests(model, tokenizer, pairs):
    """How a text model is asked: by texts, or by pairs of them.

    Texts that are too long are cut as in training.

    Args:
        model: `Data2VecTextBackbone`, or a task on one; its own preprocessor, where it has one,
            says how long a text may be.
        tokenizer: `Data2VecTextTokenizer`.
        pairs: bool. Whether it is asked about pairs.

    Returns:
        list of one `Requests`.

    Raises:
        ExportError: for a tokenizer of another kind, or of more tokens than the model has.
    """
    backbone = getattr(model, "backbone", model)
    _check_tokenizer(tokenizer, backbone)
    own = getattr(model, "preprocessor", None)
    length = backbone.max_sequence_length if own is None else own.sequence_length
    tokenizer, tables = bounded(tokenizer)
    preprocessor = Data2VecTextClassifierPreprocessor(
        tokenizer, length, **({} if own is None else {"truncate": own.truncate})
    )

    def read(texts):
        return tf.strings.substr(checked(texts), 0, LETTERS_A_TOKEN * length, unit="UTF8_CHAR")

    def of_texts(text):
        return token_ids(read(text))

    def of_pairs(first, second):
        with check_as_many(first=first, second=second):
            first, second = tf.identity(first), tf.identity(second)
        return token_ids((read(first), read(second)))

    def token_ids(texts):
        inputs = preprocessor(texts, None)
        # As long as the longest of them: padding changes nothing but the time it takes.
        longest = tf.reduce_max(tf.reduce_sum(tf.cast(inputs["padding_mask"], tf.int32), axis=1))
        return {name: tf.cast(x[:, :longest], tf.int32) for name, x in inputs.items()}

    one, another = (np.array([text], object) for text in ("a text", "another"))
    if pairs:
        specs, example = {"first": STRINGS, "second": STRINGS}, {"first": one, "second": another}
        return [Requests("", specs, of_pairs, example, tuple(tables))]
    return [Requests("", {"text": STRINGS}, of_texts, {"text": one}, tuple(tables))]


def _check_tokenizer(tokenizer, backbone):
    """Refuses what gives other ids than those that the backbone was trained with."""
    if not isinstance(tokenizer, Data2VecTextTokenizer):
        raise ExportError(
            f"A text model needs a Data2VecTextTokenizer to be served. Received: {tokenizer}. "
            "Give the folder of a run, which has one, or another folder that has it: "
            "preprocessing, --preprocessing."
        )
    size, padding = max(tokenizer.vocabulary.values()) + 1, tokenizer.pad_token_id
    if size > backbone.vocabulary_size or padding != backbone.padding_token_id:
        raise ExportError(
            f"The tokenizer has {size} tokens and <pad> at {padding}; the model has "
            f"{backbone.vocabulary_size} and {backbone.padding_token_id}. Give its own."
        )


def checked(texts):
    """The texts, where all of them are UTF-8 and none is empty."""
    valid = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace") == texts
    with check_each(valid, "is not UTF-8"):
        texts = tf.identity(texts)
    with check_each(tf.strings.strip(texts) != "", "is an empty text"):
        return tf.identity(texts)
