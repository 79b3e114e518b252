"""Checkpoints from which a run continues as if it had never stopped."""

import functools
import glob
import os
import re
import shutil
from concurrent import futures

import tensorflow as tf

from d2v_tf.errors import UserError
from d2v_tf.training.checkpoint_files import (
    drop_broken_list,
    listed_in,
    put_on_disk,
    remove_checkpoint,
    saved_in,
    step_of,
    sweep_folder,
)


class CheckpointError(UserError):
    """A checkpoint that cannot be used, with what to do about it."""


def named_variables(model):
    """Everything that a run changes, by name: weights, teacher, optimizer, random state.

    Args:
        model: a compiled `Data2Vec`.

    Returns:
        dict, name -> `tf.Variable`. Names are Keras paths; a path that occurs again gets a number.
    """
    named = {}
    for variable in [*model.variables, *model.optimizer.variables]:
        # Keras numbers what has no name of its own by what the process made before.
        path = re.sub(r"\bseed_generator_\d+", "seed_generator", variable.path)
        name, count = path, 1
        while name in named:
            count += 1
            name = f"{path}#{count}"
        named[name] = variable.value
    return named


class Checkpoints:
    """The last checkpoints of a run, one folder-wide list, newest last.

    A checkpoint counts once its index is there, which is written last: a run killed while saving
    resumes from the one before. TensorFlow's own list, the folder's `checkpoint` file, is not
    enough: it forgets what was saved by a clock that was later. The input's position is a function
    of the step and is not stored.

    A checkpoint is on disk when `save` returns. Where an accelerator trains, `begin` copies the
    state to the host's memory and returns, and a thread writes the copy while training goes on.
    TensorFlow's own asynchronous checkpoints do not tell whether what they wrote is there, nor why
    not.

    Args:
        folder: str. Made if missing.
        model: a compiled `Data2Vec`.
        keep: int. The last ones to keep.
        keep_every: int. Those of steps that it divides are kept for good, under `kept/`; 0 = none.
        in_background: optional bool, whether `begin` returns before all is written. Default: where
            an accelerator trains. A CPU would take the time from training all the same, and would
            hold the state twice.
    """

    def __init__(self, folder, model, keep=3, keep_every=0, in_background=None):
        self.folder, self.keep, self.keep_every = folder, keep, keep_every
        self.variables = named_variables(model)
        self.checkpoint = tf.train.Checkpoint(variables=self.variables)
        if in_background is None:
            in_background = any(is_on_accelerator(v) for v in self.variables.values())
        self.in_background = in_background
        self._thread = futures.ThreadPoolExecutor(1)
        self._copies, self._begun = {}, None

    @functools.cached_property
    def manager(self):
        """What writes; made when something is saved, so that restoring changes no file."""
        drop_broken_list(self.folder)
        sweep_folder(self.folder)
        source = self.checkpoint
        if self.in_background:
            source = tf.train.Checkpoint(variables=self._copies)
        # It removes the oldest before the newest is on disk: it is left one more, which goes later.
        return tf.train.CheckpointManager(
            source, self.folder, max_to_keep=self.keep + 1, checkpoint_name="step"
        )

    def save(self, step):
        """Saves the state after `step` updates, unless it holds a NaN or infinite number.

        Returns:
            str, the path, or `None` where nothing was saved because of such a number.

        Raises:
            CheckpointError: where it cannot be written; the ones before are as they were.
        """
        return self.end() if self.begin(step) else None

    def begin(self, step):
        """Begins to save the state after `step` updates; to be followed by `end`.

        Returns:
            bool. False where the state holds a NaN or infinite number, which is not saved.
        """
        if not all_finite(self.variables.values()):
            return False
        if self.in_background:
            self._copy()
            self._begun = self._thread.submit(self._write, step)
        else:
            self._begun = _run_now(self._write, step)
        return True

    @property
    def is_writing(self):
        """bool. Whether `end` would have to wait for the thread."""
        return self._begun is not None and not self._begun.done()

    def end(self):
        """Waits until what was begun is on disk.

        Returns:
            str, its path.

        Raises:
            CheckpointError: where it cannot be written; the ones before are as they were.
        """
        begun, self._begun = self._begun, None
        return begun.result()

    def close(self):
        """Waits for the thread, if it still writes, and gives the copy's memory back."""
        self._thread.shutdown()
        self._copies.clear()
        self.__dict__.pop("manager", None)  # which holds them, too

    def _copy(self):
        with tf.device("CPU:0"):
            for name, variable in self.variables.items():
                if name in self._copies:
                    self._copies[name].assign(variable.read_value())
                else:
                    self._copies[name] = tf.Variable(variable.read_value())

    def _write(self, step):
        try:
            path = self.manager.save(checkpoint_number=step)
            put_on_disk(path)
        except (tf.errors.OpError, OSError) as error:
            if not os.path.exists(os.path.join(self.folder, f"step-{step}.index")):
                remove_checkpoint(self.folder, step)
            raise CheckpointError(
                f"The checkpoint of step {step} cannot be written to {self.folder} "
                f"({_reason(error)}). Those before it are whole. Free some space, or lower "
                "keep_checkpoints."
            ) from error
        if self.keep_every and step % self.keep_every == 0:
            self._keep_for_good(path)
        for old in sorted(saved_in(self.folder))[: -self.keep]:
            if old < step:  # also those that TensorFlow has forgotten
                remove_checkpoint(self.folder, old)
        return path

    def _keep_for_good(self, path):
        """Gives a checkpoint's files a second name, which costs no space where links can be.

        Raises:
            CheckpointError: where there is no room for it; the checkpoint itself stays.
        """
        kept = os.path.join(self.folder, "kept")
        try:
            os.makedirs(kept, exist_ok=True)
            # The index comes last: with it a checkpoint is whole.
            for file in sorted(glob.glob(f"{glob.escape(path)}.*")):
                target = os.path.join(kept, os.path.basename(file))
                temporary = f"{target}.tmp"
                if os.path.exists(temporary):
                    os.remove(temporary)
                try:
                    os.link(file, temporary)
                except OSError:  # not every file system has links
                    shutil.copyfile(file, temporary)
                os.replace(temporary, target)
            put_on_disk(os.path.join(kept, os.path.basename(path)))
        except OSError as error:
            for part in glob.glob(f"{glob.escape(kept)}/*.tmp"):
                os.remove(part)
            raise CheckpointError(
                f"{path} cannot be kept for good in {kept} ({_reason(error)}). Free some space, or "
                "raise keep_every."
            ) from error

    def _paths(self):
        """All checkpoints, newest first."""
        # What is listed and gone is passed over, and said so; but the list has one more than stay.
        saved = saved_in(self.folder)
        listed = {step_of(path): path for path in listed_in(self.folder) or ()}
        gone = {step: path for step, path in listed.items() if step > min(saved, default=0)}
        found = {**gone, **saved_in(os.path.join(self.folder, "kept")), **saved}
        return [path for _, path in sorted(found.items(), reverse=True)]

    def restore(self):
        """Restores the newest checkpoint that can be read. No file is changed.

        Returns:
            (step, list of str): the number of updates made, 0 where there is no checkpoint, and a
            line for each newer checkpoint that was passed over.

        Raises:
            CheckpointError: where checkpoints exist and none fits the model or can be read.
        """
        passed_over = []
        paths = self._paths()
        for path in paths:
            try:
                self._check_shapes(path)
                # Reads every variable before the first is changed only in so far as TensorFlow
                # does: after a failure the next older checkpoint overwrites all of them.
                self.checkpoint.restore(path).assert_consumed()
                return step_of(path), passed_over
            except (tf.errors.OpError, ValueError, AssertionError) as error:
                if isinstance(error, CheckpointError):
                    raise
                passed_over.append(f"{path} cannot be read ({_reason(error)})")
        if passed_over:
            raise CheckpointError(
                f"None of the {len(paths)} checkpoints in {self.folder} can be read: "
                + "; ".join(passed_over)
                + ". Remove the folder to start anew."
            )
        return 0, passed_over

    def _check_shapes(self, path):
        stored = {
            key: shape
            for key, shape in tf.train.load_checkpoint(path).get_variable_to_shape_map().items()
            if key.endswith("/.ATTRIBUTES/VARIABLE_VALUE")
        }
        expected = {
            _stored_name(name): variable.shape.as_list()
            for name, variable in self.variables.items()
        }
        stored.pop("save_counter/.ATTRIBUTES/VARIABLE_VALUE", None)
        missing = sorted(set(expected) - set(stored))
        unused = sorted(set(stored) - set(expected))
        differ = sorted(k for k in set(stored) & set(expected) if stored[k] != expected[k])
        if missing or unused or differ:
            first = (missing or unused or differ)[0].split("/.ATTRIBUTES")[0]
            raise CheckpointError(
                f"{path} is not of this model: {len(missing)} variables are missing in it, "
                f"{len(unused)} are in it only, {len(differ)} differ in shape; the first is "
                f"{first.removeprefix('variables/').replace('.S', '/').replace('..', '.')}. "
                "Use the recipe that the run was started with, or another --workdir."
            )


def _reason(error):
    return str(error).strip().splitlines()[0][:200]


def read_newest(folder, names):
    """Variables of the newest checkpoint in a folder, without their model.

    Args:
        folder: str.
        names: list of str, as `named_variables` gives them.

    Returns:
        list of arrays; empty where there is no checkpoint or it lacks one of them.
    """
    path = tf.train.latest_checkpoint(folder)
    if path is None:
        return []
    reader = tf.train.load_checkpoint(path)
    keys = [_stored_name(name) for name in names]
    return [reader.get_tensor(key) for key in keys] if all(map(reader.has_tensor, keys)) else []


def _stored_name(name):
    """What TensorFlow calls a variable of this name in a checkpoint."""
    escaped = name.replace(".", "..").replace("/", ".S")
    return f"variables/{escaped}/.ATTRIBUTES/VARIABLE_VALUE"


def _run_now(function, *arguments):
    """What a thread pool's `submit` does, done when it returns."""
    future = futures.Future()
    try:
        future.set_result(function(*arguments))
    except CheckpointError as error:
        future.set_exception(error)
    return future


def is_on_accelerator(variable):
    """Whether a variable, or a replica of it, is in the memory of a GPU or TPU."""
    return tf.DeviceSpec.from_string(variable.device).device_type not in (None, "CPU")


def all_finite(variables):
    """Whether no variable holds a NaN or an infinite number."""
    floats = [v for v in variables if v.dtype.is_floating]
    return bool(tf.reduce_all([tf.reduce_all(tf.math.is_finite(v)) for v in floats]))
