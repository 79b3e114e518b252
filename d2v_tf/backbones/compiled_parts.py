"""The parts of a model that are computed in another way while it is trained, if that is better."""

import contextlib
import contextvars
import functools

import keras
from keras import ops


def _call(function, *inputs):
    return function(*inputs)


def _all_at_once(function, layers, x):
    return in_one_piece(function, x)


_compilers = contextvars.ContextVar("compilers", default=(_call, _call, _all_at_once))


@contextlib.contextmanager
def parts_compiled_by(rowwise=_call, in_one_piece=_call, one_by_one=_all_at_once):
    """Has this thread's calls of the functions of these names done by these functions.

    Args:
        rowwise, in_one_piece: functions of (function, *its inputs) that return what it returns.
        one_by_one: function of (function, layers, its input) that does.
    """
    token = _compilers.set((rowwise, in_one_piece, one_by_one))
    try:
        yield
    finally:
        _compilers.reset(token)


def rowwise(function, *inputs):
    """Calls a function that works number by number or row by row.

    Args:
        function: function of tensors to a tensor, without weights or state of its own; always the
            same object for the same computation.
        *inputs: tensors.

    Returns:
        What the function returns.
    """
    return _compilers.get()[0](function, *inputs)


def in_one_piece(function, *inputs):
    """Calls a function of many operations that are not matrix products alone.

    Args:
        function: function of tensors; it may have weights.
        *inputs: tensors, or `None`.

    Returns:
        What the function returns.
    """
    return _compilers.get()[1](function, *inputs)


def one_by_one(function, layers, x):
    """Calls a function that makes much of every example of a batch, and of each by itself.

    Args:
        function: function of floats `[B, ...]` to floats `[B, ...]`, without random numbers.
        layers: list of Keras layers, which have all weights that it uses, and one policy.
        x: its input.

    Returns:
        What the function returns.
    """
    return _compilers.get()[2](function, layers, x)


exact_gelu = functools.partial(ops.gelu, approximate=False)


@functools.cache
def _layer_normalization(epsilon):
    return functools.partial(ops.layer_normalization, axis=-1, epsilon=epsilon)


# Keras names the weights of a list's layers by their class, in files too: the name must stay.
class LayerNormalization(keras.layers.LayerNormalization):
    """As Keras', over the last axis, by `rowwise`; with both a scale and a shift, or with neither.

    Args: as Keras', without `axis`.

    Raises:
        ValueError: for one of `center` and `scale` alone.
    """

    def __init__(self, *, center=True, scale=True, **kwargs):
        if center is not scale:
            raise ValueError(f"center and scale go together. Received: {center} and {scale}")
        super().__init__(center=center, scale=scale, **kwargs)

    def call(self, inputs):
        weights = [ops.convert_to_tensor(w) for w in (self.gamma, self.beta) if w is not None]
        outputs = rowwise(_layer_normalization(self.epsilon), inputs, *weights)
        return ops.cast(outputs, self.compute_dtype)
