"""Strings in, a classifier's inputs out: for `fit` and `predict` on texts, part of a preset."""

import keras
import keras_hub
import numpy as np
import tensorflow as tf

from d2v_tf.backbones.text import Data2VecTextBackbone
from d2v_tf.data.tokenization import Data2VecTextTokenizer


@keras.saving.register_keras_serializable(package="d2v_tf")
class Data2VecTextClassifierPreprocessor(keras_hub.models.TextClassifierPreprocessor):
    """Makes `<s> a </s>` of a text and `<s> a </s></s> b </s>` of a pair, as RoBERTa has them.

    In a graph, so that it can be mapped over a `tf.data.Dataset` and served. Its ids are those of
    `data.text_labelled`: white space at both ends of a text is left out, and of a pair that is too
    long, the longer text is cut first. (Hugging Face's fast tokenizers differ by one token where
    both texts are cut and the room is odd.)

    Args:
        tokenizer: `Data2VecTextTokenizer`, such as `TextTokenizer.in_graph()`.
        sequence_length: int. T, of the model at most. From a preset, the backbone's
            `max_sequence_length`; else 512.
        truncate: `"round_robin"`, which cuts the longer text of a pair first, or `"waterfall"`,
            which cuts the second. Defaults to `"round_robin"`.
        pairs: optional bool. Whether the model was trained on pairs of texts: kept for whoever
            serves it, and without effect here.

    Call: a string, a list of B strings, or a tuple of two of these for pairs; optionally followed
    by labels and sample weights, which pass through. Returns `{"token_ids": int32 [B, T],
    "padding_mask": bool [B, T]}`, or a tuple of that and of what passes through.

    Example:
    ```python
    tokenizer = d2v_tf.Data2VecTextTokenizer.from_preset("runs/text/preset")
    preprocessor = Data2VecTextClassifierPreprocessor(tokenizer, sequence_length=128)
    preprocessor((["A plane is taking off."], ["An air plane is taking off."]))
    ```
    """

    backbone_cls = Data2VecTextBackbone
    tokenizer_cls = Data2VecTextTokenizer

    def __init__(
        self, tokenizer, sequence_length=512, truncate="round_robin", pairs=None, **kwargs
    ):
        # The tokenizer has no path in Python.
        kwargs["_allow_python_workflow"] = False
        super().__init__(tokenizer, sequence_length, truncate, **kwargs)
        self.pairs = pairs

    def __call__(self, *args, **kwargs):
        # KerasHub takes a lone tuple for inputs and labels. A pair of texts is no such thing.
        lone = len(args) == 1 and "y" not in kwargs
        if lone and isinstance(args[0], tuple) and _are_texts(args[0][-1]):
            args = (args[0], None)
        return super().__call__(*args, **kwargs)

    @classmethod
    def _add_missing_kwargs(cls, loader, kwargs):
        """KerasHub's place for what a preset without this preprocessor tells about it."""
        longest = loader.config["config"]["max_sequence_length"]
        return super()._add_missing_kwargs(loader, {"sequence_length": longest, **kwargs})

    def build(self, input_shape):
        end = self.tokenizer.end_token_id
        self.packer = keras_hub.layers.MultiSegmentPacker(
            start_value=self.tokenizer.start_token_id,
            end_value=end,
            sep_value=[end, end],
            pad_value=self.tokenizer.pad_token_id,
            truncate=self.truncate,
            sequence_length=self.sequence_length,
            _allow_python_workflow=False,
        )
        self.built = True

    def call(self, x, y=None, sample_weight=None):
        texts = x if isinstance(x, tuple) else (x,)
        texts = tuple(tf.strings.strip(text) for text in texts)
        output = super().call(texts, y=y, sample_weight=sample_weight)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(output)
        del x["segment_ids"]  # the backbone has a single segment
        return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)

    def get_config(self):
        return {**super().get_config(), "pairs": self.pairs}


def _are_texts(value):
    """Whether this is a string, or a list, array or tensor of strings."""
    if isinstance(value, tf.Tensor):
        return value.dtype == tf.string
    if isinstance(value, str | bytes):
        return True
    return isinstance(value, list | np.ndarray) and np.asarray(value).dtype.kind in "USO"
