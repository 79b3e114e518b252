"""A task model as a run trains it: one update a `train_step`, plain numbers in its logs."""

import keras
import tensorflow as tf

from d2v_tf.pretraining.part_compilers import parts_by_xla


class Supervised(keras.Model):
    """Trains a task by its own loss; logs what an update computed, where Keras logs means.

    Args:
        task: a compiled task model, such as `Data2VecImageClassifier`; its `compute_loss` is used.
        compile_parts: bool. As `Data2Vec`'s.
    """

    def __init__(self, task, compile_parts=False, **kwargs):
        super().__init__(**kwargs)
        self.task = task
        self.compile_parts = compile_parts
        self.built = True

    @property
    def backbone(self):
        """The task's."""
        return self.task.backbone

    def call(self, inputs, training=None):
        return self.task(inputs, training=training)

    def train_step(self, batch):
        """One update; logs the loss, the learning rate and the number of examples."""
        inputs, labels = batch
        variables = self.trainable_variables
        wanted = self.compile_parts and not self.jit_compile
        # Not for the gradient: that is of functions which are compiled already.
        with parts_by_xla(wanted, self.task.backbone.compute_dtype), tf.GradientTape() as tape:
            outputs = self.task(inputs, training=True)
            loss = self.task.compute_loss(inputs, labels, outputs, training=True)
        learning_rate = tf.cast(self.optimizer.learning_rate, tf.float32)
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {
            "loss": loss,
            "learning_rate": learning_rate,
            "examples": tf.cast(tf.shape(labels)[0], tf.float32),
        }
