"""Random first values that whoever has others does not wait for."""

import contextlib
import contextvars

import keras
from keras import ops

_drawn = contextvars.ContextVar("drawn", default=True)


@contextlib.contextmanager
def without_drawing():
    """Backbones that are made in here have zeros where `TruncatedNormal` would draw.

    For whoever assigns every such weight afterwards. Reading a Base model's file takes 1.6 to 2.1 s
    of CPU time so, and 3.5 to 4.6 s with drawing (1 core, TF 2.21, 2026-11).
    """
    token = _drawn.set(False)
    try:
        yield
    finally:
        _drawn.reset(token)


@keras.saving.register_keras_serializable(package="d2v_tf")
class TruncatedNormal(keras.initializers.TruncatedNormal):
    """Keras' own, but for `without_drawing`. What all large weights of the backbones start from."""

    def __call__(self, shape, dtype=None):
        if _drawn.get():
            return super().__call__(shape, dtype)
        return ops.zeros(shape, dtype)
