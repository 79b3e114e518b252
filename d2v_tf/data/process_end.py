"""Ends input pipelines before Python ends, so that a process that is done, or failed, does end.

Python code that a pipeline calls runs in TensorFlow's threads. Once Python is ending, a thread that
asks for its lock ends on the spot ("Cautions regarding runtime finalization" in Python's C API).
Whoever frees the iterator later, such as an error's traceback, waits for that thread for ever.
"""

import atexit
import contextlib
import gc
import threading

import tensorflow as tf

# Seconds. A pipeline whose data service is gone asks it again and again, and does not end.
PATIENCE = 20


@atexit.register
def end_pipelines():
    """Ends this process' pipelines, or as many as will within `PATIENCE`."""
    thread = threading.Thread(target=_end_all, daemon=True)
    thread.start()
    thread.join(PATIENCE)


def _end_all():
    """Gives each iterator an empty dataset, and waits for what it is still doing."""
    from tensorflow.python.data.ops.iterator_ops import OwnedIterator
    from tensorflow.python.data.ops.multi_device_iterator_ops import OwnedMultiDeviceIterator

    # `type`, not `isinstance`: that asks the object, and some things here are half dead.
    things = [t for t in gc.get_objects() if type(t) in (OwnedIterator, OwnedMultiDeviceIterator)]
    # Of several devices, what serves them first: their own iterators wait for it.
    for iterator in sorted(things, key=lambda thing: type(thing) is OwnedIterator):
        # It may be one of a traced function, or of a device that is gone. Others are left to end.
        with contextlib.suppress(Exception):
            _empty(iterator)


def _empty(iterator):
    # Not its own dataset from the start: a data service that is gone would be asked for it.
    if hasattr(iterator, "_multi_device_iterator_resource"):
        spec = iterator.element_spec
        empty = tf.data.Dataset.range(0).map(lambda _: tf.nest.map_structure(_any_like, spec))
        tf.raw_ops.MultiDeviceIteratorInit(
            dataset=empty._variant_tensor,
            multi_device_iterator=iterator._multi_device_iterator_resource,
            max_buffer_size=1,
        )
    else:
        empty = iterator._dataset.take(0)
        tf.raw_ops.MakeIterator(dataset=empty._variant_tensor, iterator=iterator._iterator_resource)


def _any_like(spec):
    return tf.zeros([size or 0 for size in spec.shape], spec.dtype)
