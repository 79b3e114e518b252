"""The files of checkpoints in a folder: which are whole, which are left over."""

import errno
import glob
import os
import re
import shutil

import tensorflow as tf


def saved_in(folder):
    """dict of step to the path of its checkpoint."""
    indices = glob.glob(f"{glob.escape(folder)}/step-*.index")
    return {step_of(path): path for path in (index.removesuffix(".index") for index in indices)}


def remove_checkpoint(folder, step):
    """Removes a checkpoint, or what was written of it."""
    # The index comes first: without it a checkpoint does not count.
    for part in sorted(glob.glob(f"{glob.escape(folder)}/step-{step}[._]*"), reverse=True):
        shutil.rmtree(part) if os.path.isdir(part) else os.remove(part)


def put_on_disk(path):
    """Waits until a checkpoint's files and their names would outlast a power cut."""
    for file in [*glob.glob(f"{glob.escape(path)}.*"), os.path.dirname(path)]:
        number = os.open(file, os.O_RDONLY)
        try:
            os.fsync(number)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a file system that keeps no folders
                raise
        finally:
            os.close(number)


def sweep_folder(folder):
    """Removes what runs that were killed while saving have left."""
    whole = saved_in(folder)
    for part in glob.glob(f"{glob.escape(folder)}/step-*"):
        found = re.search(r"/step-(\d+)(_temp|\.data)", part)
        if found and (found.group(2) == "_temp" or int(found.group(1)) not in whole):
            shutil.rmtree(part) if os.path.isdir(part) else os.remove(part)
    for part in glob.glob(f"{glob.escape(folder)}/kept/*.tmp"):
        os.remove(part)


def listed_in(folder):
    """The paths in TensorFlow's list; `None` where that is missing or cannot be read."""
    try:
        state = tf.train.get_checkpoint_state(folder)
    except ValueError:
        return None
    return None if state is None else list(state.all_model_checkpoint_paths)


def drop_broken_list(folder):
    """Removes TensorFlow's list of checkpoints where it cannot be read, as after a power cut."""
    path = os.path.join(folder, "checkpoint")
    if os.path.exists(path) and listed_in(folder) is None:
        os.remove(path)


def step_of(path):
    return int(re.search(r"step-(\d+)$", path).group(1))
