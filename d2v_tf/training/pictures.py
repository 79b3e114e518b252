"""What TensorBoard shows beside numbers: the recipe, spreads, what is hidden, what is predicted."""

import keras
import numpy as np
import tensorflow as tf

from d2v_tf.config import dump_recipe
from d2v_tf.data.reading import first_line
from d2v_tf.reporting.report import PICTURES

# The same few examples every time: the pictures of two updates can be compared.
NUM_EXAMPLES = 4


class Pictures(keras.callbacks.Callback):
    """Writes histograms and pictures of a few examples; computes nothing that training sees.

    At the start, with the recipe and the masks; every `every` updates and after the last one.

    Args:
        log: `RunLog`, whose TensorBoard is written.
        recipe: the run's.
        data: what it reads.
        every: int. Updates between two times.
        warn: callable(str), told once of pictures that cannot be made.
    """

    def __init__(self, log, recipe, data, every, warn):
        super().__init__()
        self.log, self.recipe, self.data, self.every = log, recipe, data, every
        self.kind = PICTURES[recipe.modality]
        self.batch, self.failed, self.warn = None, False, warn

    def on_train_begin(self, logs=None):
        self.step = self.log.start
        self._write(self._open)
        if not self.step:
            text = "\n".join(f"    {line}" for line in dump_recipe(self.recipe).splitlines())
            self._write(lambda: tf.summary.text("recipe", text))
            self._write(lambda: self.kind.summarize_masks(self.batch, self.data))
            self._write(self._look)

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.step % self.every == 0 or self.step == self.recipe.steps:
            self._write(self._look)

    def _open(self):
        self.batch = self.data.first_examples(NUM_EXAMPLES)

    def _look(self):
        targets = self.model.targets(self.batch).numpy()
        predictions = self.model.predictions(self.batch, training=False).numpy()
        hidden = np.asarray(self.batch["mask"])
        tf.summary.histogram("targets", targets[hidden])
        tf.summary.histogram("predictions", predictions[hidden])
        self.kind.summarize_features(self.batch, targets, self.data)

    def _write(self, function):
        """Whatever goes wrong with a picture, such as weights that are no numbers, stops no run."""
        if self.failed:
            return
        with self.log.time_left.pause("pictures"):
            try:
                with self.log.writer.as_default(step=self.step):
                    function()
            except Exception as error:
                self.failed = True
                self.warn(
                    f"TensorBoard gets no more pictures ({type(error).__name__}: "
                    f"{first_line(error)})"
                )
