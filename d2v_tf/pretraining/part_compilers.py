"""Parts of a graph in other ways than the rest: by XLA, or computed twice.

On a CPU XLA fuses what the graph runs over memory for again and again, and the graph's matrix
products are the faster ones.
"""

import contextlib
import functools

import tensorflow as tf

from d2v_tf.backbones.compiled_parts import parts_compiled_by
from d2v_tf.pretraining.remat import rematerialized_one_by_one


def parts_in_other_ways(by_xla, dtype, remat=False):
    """A context in which the parts of a model that `compiled_parts` names are computed otherwise.

    Args:
        by_xla: bool. Whether XLA compiles them.
        dtype: str. What the model computes with. Processors with matrix units for bfloat16 use them
            in the graph only, which keeps everything with products in it then.
        remat: bool. Whether what is large is computed again for the gradient, example by example.
    """
    by_xla = by_xla and not tf.executing_eagerly()  # eagerly, all would be compiled at every call
    ways = {}
    if by_xla:
        ways["rowwise"] = fused
    if by_xla and dtype == "float32":
        ways["in_one_piece"] = compiled
    if remat:
        compiler = _alone if "in_one_piece" in ways else None
        ways["one_by_one"] = functools.partial(rematerialized_one_by_one, compiler=compiler)
    return parts_compiled_by(**ways) if ways else contextlib.nullcontext()


_by_xla = functools.partial(tf.function, jit_compile=True, autograph=False)


def fused(function, *inputs):
    """Does a call of `rowwise`, compiled; its gradient computes it anew from the inputs."""
    return _with_gradient(function)(*map(tf.convert_to_tensor, inputs))


@functools.cache
def _with_gradient(function):
    forward = _by_xla(function)

    @_by_xla
    def backward(inputs, upstream):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = function(*inputs)
        return tape.gradient(outputs, inputs, upstream)

    @tf.custom_gradient
    def run(*inputs):
        return forward(*inputs), lambda upstream: backward(inputs, upstream)

    return run


def compiled(function, *inputs):
    """Does a call of `in_one_piece`, compiled; what its gradient needs is kept."""
    return _alone(function)(*inputs)


def _alone(function):
    """A function that is compiled as a whole, and none of its parts once more."""

    @_by_xla
    def whole(*inputs):
        with parts_compiled_by():
            return function(*inputs)

    return whole
