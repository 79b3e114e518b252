"""What a served model can be asked, for all modalities."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from d2v_tf.errors import UserError


class ExportError(UserError):
    """A model that cannot be exported; the message says why."""


@dataclasses.dataclass(frozen=True, eq=False)
class Requests:
    """One way to ask a model.

    Whatever a request has that cannot be used is an `InvalidArgumentError` while the graph runs:
    a server gives it back to the client that sent it.

    Attributes:
        name: str. Part of a signature's name; `""` for the usual way.
        specs: dict of an input's name to `tf.TensorSpec`, the batch first and free.
        to_inputs: function of the inputs, by name, to what the backbone is called with.
        example: dict of an input's name to a NumPy array: a request of one example.
        resources: tuple of TensorFlow's tables that `to_inputs` uses.
    """

    name: str
    specs: dict[str, tf.TensorSpec]
    to_inputs: Callable
    example: dict
    resources: tuple = ()


def check_as_many(**inputs):
    """Refuses a request that has more examples of one input than of another; in graphs.

    Args:
        **inputs: two tensors, by name, the batch first.

    Returns:
        A context; operations in it run where there are as many.
    """
    counts = [tf.shape(tensor)[0] for tensor in inputs.values()]
    said = tf.strings.format(
        "{} and {} must have as many examples. Received: {{}} and {{}}".format(*inputs), counts
    )
    return tf.control_dependencies([tf.debugging.Assert(tf.equal(*counts), [said])])


def check_each(fits, message, *values):
    """Refuses a request with an example that does not fit; in graphs.

    Args:
        fits: bool `[B]`, B at least 1.
        message: str. What is wrong with it, behind "example i ", with `{}` for each value.
        values: tensors `[B]`, of which that example's are named.

    Returns:
        A context; operations in it run where all examples fit.
    """
    first = tf.argmin(tf.cast(fits, tf.int32), output_type=tf.int32)
    values = [tf.gather(value, first) for value in values]
    return check_one(tf.reduce_all(fits), first, message, *values)


def check_one(fits, place, message, *values):
    """As `check_each`, of a single example.

    Args:
        fits: bool scalar.
        place: int scalar. Which example it is.
        message: as for `check_each`.
        values: scalars.
    """
    said = tf.strings.format("example {} " + message, [place, *values])
    return tf.control_dependencies([tf.debugging.Assert(fits, [said])])
