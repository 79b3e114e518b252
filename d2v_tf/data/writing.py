"""Writing that says in one line what is wrong with the folder."""

import contextlib

import tensorflow as tf

from d2v_tf.data.reading import DataError, first_line


@contextlib.contextmanager
def writing(out):
    """Around what writes into a folder.

    Raises:
        DataError: where the folder cannot be written, or the disk is full.
    """
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise DataError(
            f"prepare: --out={out} cannot be written ({reason}). Make room there, or choose "
            "another folder."
        ) from None
