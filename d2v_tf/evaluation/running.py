"""Runs a model over examples: raw ones in, arrays in their order out."""

import keras
import numpy as np
from keras import ops

from d2v_tf.backbones.preprocessing import Data2VecAudioConverter, Data2VecImageConverter
from d2v_tf.data.reading import DataError
from d2v_tf.data.tokenization import Data2VecTextTokenizer
from d2v_tf.evaluation.examples import UnreadableError
from d2v_tf.finetuning.text_preprocessor import Data2VecTextClassifierPreprocessor


def run_examples(examples, make_inputs, function, batch_size=32, max_bad=0.01, warn=print):
    """Applies a function to batches of examples.

    Args:
        examples: `Examples`.
        make_inputs: function of a list of raw examples to what `function` takes.
        function: inputs -> an array `[B, ...]` or a list of B things.
        batch_size: int.
        max_bad: float. The part of the examples that may be unreadable; they are left out.
        warn: callable(str), called for each of them.

    Returns:
        (int64 array `[M]`, the examples that could be read, ascending; list of M results).

    Raises:
        DataError: where too many cannot be read.
    """
    results, bad = {}, []
    order = np.argsort(examples.sizes, kind="stable")
    for first in range(0, len(order), batch_size):
        indices, raw = [], []
        for index in order[first : first + batch_size]:
            try:
                raw.append(examples.read(int(index)))
                indices.append(int(index))
            except UnreadableError as error:
                bad.append((examples.names[index], str(error)))
                if len(bad) > max(max_bad * len(order), 0):
                    name, reason = bad[0]
                    raise DataError(
                        f"data: {len(bad)} of {len(order)} examples of {examples.name} could not "
                        f'be read (first: {name}, "{reason}"); at most {100 * max_bad:g}% may. '
                        "Remove them, or raise --max_bad."
                    ) from None
                warn(f"{examples.names[index]} is skipped: {error}")
        if raw:
            outputs = function(make_inputs(raw))
            if not isinstance(outputs, list):
                outputs = list(ops.convert_to_numpy(outputs))
            results.update(zip(indices, outputs, strict=True))
    read = np.array(sorted(results), "int64")
    return read, [results[index] for index in read]


def forward(task):
    """A function of a task's inputs to what it gives, without the preprocessor that it may have."""
    return lambda inputs: keras.Model.predict_on_batch(task, inputs)


def input_maker(preprocessing, model):
    """A function of raw examples to a model's inputs.

    Args:
        preprocessing: what `d2v_tf.load_preprocessing` gives.
        model: `Data2VecBackbone`, or a task on one. Texts for a task are cut to the length that it
            was trained with, where its preprocessor says it.

    Returns:
        function of a list of images `[H, W, 3]`, waveforms `[N]`, strings or pairs of them.

    Raises:
        DataError: where there is no preprocessing.
    """
    if isinstance(preprocessing, Data2VecImageConverter):
        return lambda images: np.stack(
            [ops.convert_to_numpy(preprocessing(image[None]))[0] for image in images]
        )
    if isinstance(preprocessing, Data2VecAudioConverter):
        return lambda waveforms: dict(preprocessing(waveforms))
    if isinstance(preprocessing, Data2VecTextTokenizer):
        own = getattr(model, "preprocessor", None)
        backbone = getattr(model, "backbone", model)
        preprocessor = own or Data2VecTextClassifierPreprocessor(
            preprocessing, sequence_length=backbone.max_sequence_length
        )
        return lambda texts: preprocessor(_columns(texts), None)
    raise DataError(
        "The model came without image or audio settings or a tokenizer, so nothing says what its "
        "input looks like. Give the folder of a run, which has them."
    )


def _columns(texts):
    """A list of strings as it is, a list of pairs as a tuple of two lists."""
    if isinstance(texts[0], tuple):
        return tuple(map(list, zip(*texts, strict=True)))
    return texts
