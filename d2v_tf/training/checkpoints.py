"""Checkpoints from which a run continues as if it had never stopped."""

import re

import keras
import tensorflow as tf

from d2v_tf.errors import UserError


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

    A checkpoint counts once TensorFlow has named it in the folder's `checkpoint` file, which it
    does by an atomic rename after the data is on disk: a run killed while saving resumes from the
    one before. The input's position is a function of the step and is not stored.

    Args:
        folder: str. Made if missing.
        model: a compiled `Data2Vec`.
        keep: int. Checkpoints to keep.
    """

    def __init__(self, folder, model, keep=3):
        self.folder = folder
        self.variables = named_variables(model)
        checkpoint = tf.train.Checkpoint(variables=self.variables)
        self.manager = tf.train.CheckpointManager(
            checkpoint, folder, max_to_keep=keep, checkpoint_name="step"
        )

    def save(self, step):
        """Saves the state after `step` updates, unless it holds a NaN or infinite number.

        Returns:
            str, the path, or `None` where nothing was saved because of such a number.
        """
        if not all_finite(self.variables.values()):
            return None
        return self.manager.save(checkpoint_number=step)

    def restore(self):
        """Restores the newest checkpoint that can be read.

        Returns:
            (step, list of str): the number of updates made, 0 where there is no checkpoint, and a
            line for each newer checkpoint that was passed over.

        Raises:
            CheckpointError: where checkpoints exist and none fits the model or can be read.
        """
        passed_over = []
        paths = list(reversed(self.manager.checkpoints))
        for path in paths:
            try:
                self._check_shapes(path)
                # Reads every variable before the first is changed only in so far as TensorFlow
                # does: after a failure the next older checkpoint overwrites all of them.
                self.manager.checkpoint.restore(path).assert_consumed()
                return int(re.search(r"step-(\d+)$", path).group(1)), passed_over
            except (tf.errors.OpError, ValueError, AssertionError) as error:
                if isinstance(error, CheckpointError):
                    raise
                reason = str(error).strip().splitlines()[0][:200]
                passed_over.append(f"{path} cannot be read ({reason})")
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


def all_finite(variables):
    """Whether no variable holds a NaN or an infinite number."""
    floats = [v for v in variables if v.dtype.is_floating]
    return bool(tf.reduce_all([tf.reduce_all(tf.math.is_finite(v)) for v in floats]))


class Checkpointer(keras.callbacks.Callback):
    """Saves every `every` updates and after the last one.

    Args:
        checkpoints: `Checkpoints`.
        start: int. Updates made before this fit.
        steps: int. Updates of the whole run.
        every: int. Updates between two checkpoints.
    """

    def __init__(self, checkpoints, start, steps, every):
        super().__init__()
        self.checkpoints = checkpoints
        self.step = self.saved = start
        self.steps, self.every = steps, every

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.step % self.every == 0 or self.step == self.steps:
            self.save_now()

    def save_now(self):
        """Saves unless this step is saved already. Returns the step that is on disk."""
        if self.step > self.saved and self.checkpoints.save(self.step):
            self.saved = self.step
        return self.saved
