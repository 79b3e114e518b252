"""Ends input pipelines before Python ends, so that a process that is done, or failed, does end.

Python code that a pipeline calls runs in TensorFlow's threads. Once Python is ending, a thread that
asks for its lock ends on the spot ("Cautions regarding runtime finalization" in Python's C API).
Whoever frees the iterator later, such as an error's traceback, waits for that thread for ever.
"""

import atexit
import gc

import tensorflow as tf
from tensorflow.python.data.ops.iterator_ops import OwnedIterator
from tensorflow.python.data.ops.multi_device_iterator_ops import OwnedMultiDeviceIterator


@atexit.register
def end_pipelines():
    """Starts every iterator that there is afresh, which waits for what it is doing."""
    things = gc.get_objects()
    # Of several devices, what serves them first: their own iterators wait for it.
    for iterator in [thing for thing in things if isinstance(thing, OwnedMultiDeviceIterator)]:
        tf.raw_ops.MultiDeviceIteratorInit(
            dataset=_nothing_like(iterator.element_spec)._variant_tensor,
            multi_device_iterator=iterator._multi_device_iterator_resource,
            max_buffer_size=1,
        )
    for iterator in [thing for thing in things if isinstance(thing, OwnedIterator)]:
        if hasattr(iterator, "_dataset"):  # one inside a traced function has none
            tf.raw_ops.MakeIterator(
                dataset=iterator._dataset._variant_tensor, iterator=iterator._iterator_resource
            )


def _nothing_like(spec):
    """A dataset without elements; they would be like this."""
    zeros = tf.nest.map_structure(lambda s: tf.zeros([d or 0 for d in s.shape], s.dtype), spec)
    return tf.data.Dataset.from_tensors(zeros).take(0)
