"""A task model as a run trains it: one update a `train_step`, plain numbers in its logs."""

import keras
import tensorflow as tf

from d2v_tf.pretraining.part_compilers import parts_in_other_ways
from d2v_tf.pretraining.replicas import (
    replica_number,
    replicated_train_function,
    seed_states,
    seeds_apart,
    sum_over_replicas,
    update_as_it_is,
)


class Supervised(keras.Model):
    """Trains a task by its own loss; logs what an update computed, where Keras logs means.

    In replicas each has an equal part of the batch. Their gradients are added up before they are
    clipped, so an update is that of the whole batch in one.

    Args:
        task: a compiled task model, such as `Data2VecImageClassifier`; its `compute_loss` is used,
            which as Keras' own is the mean over the batch, divided by the number of replicas.
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

    @property
    def num_replicas(self):
        """int. The parts that an update's batch is computed in at the same time."""
        return self.distribute_strategy.num_replicas_in_sync

    def call(self, inputs, training=None):
        return self.task(inputs, training=training)

    def make_train_function(self, force=False):
        """As Keras'; in replicas XLA compiles what comes before the all-reduce."""
        if self.num_replicas == 1:
            super().make_train_function(force)
            return
        if self.train_function is not None and not force:
            return
        self._gradients_of_replica = self._gradients_apart
        if self.jit_compile and not self.run_eagerly:
            self._gradients_of_replica = tf.function(
                self._gradients_apart, jit_compile=True, reduce_retracing=True, autograph=False
            )
        update_as_it_is(self.optimizer)
        self.train_function = replicated_train_function(
            self.distribute_strategy, self.train_step, self.run_eagerly
        )

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Everything is built; Keras would reduce a first batch over the replicas to find out."""

    def train_step(self, batch):
        """One update; logs the loss, the learning rate and the number of examples."""
        inputs, labels = batch
        examples = tf.cast(tf.shape(labels)[0], tf.float32)
        if self.num_replicas == 1:
            loss, gradients = self._gradients(inputs, labels)
        else:
            found = self._gradients_of_replica(inputs, labels, replica_number())
            (loss, gradients), examples = sum_over_replicas((found, examples))
        learning_rate = tf.cast(self.optimizer.learning_rate, tf.float32)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss, "learning_rate": learning_rate, "examples": examples}

    def _gradients(self, inputs, labels):
        """The loss of a batch, and its gradients."""
        wanted = self.compile_parts and not self.jit_compile
        # Not for the gradient: that is of functions which are compiled already.
        with (
            parts_in_other_ways(wanted, self.task.backbone.compute_dtype),
            tf.GradientTape() as tape,
        ):
            outputs = self.task(inputs, training=True)
            loss = self.task.compute_loss(inputs, labels, outputs, training=True)
        gradients = tape.gradient(loss, self.trainable_variables)
        # Of embeddings too, of which Keras would clip each row by its parts.
        return loss, [g if g is None else tf.convert_to_tensor(g) for g in gradients]

    def _gradients_apart(self, inputs, labels, replica):
        """`_gradients` with dropout that no other replica draws."""
        with seeds_apart(seed_states(self), replica):
            return self._gradients(inputs, labels)
