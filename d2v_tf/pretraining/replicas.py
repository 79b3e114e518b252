"""An update in replicas: each computes its part of the batch, all make the same step."""

import contextlib
import types

import tensorflow as tf

# Replicas draw from seeds so far apart, as nothing else numbers its seeds. Keras takes them modulo
# 2^31 - 2, so 127 replicas have seeds of their own.
SEED_STEP = 1 << 24


@contextlib.contextmanager
def replica_scope(strategy):
    """`strategy.scope()` in which every variable of a model is updated by each replica for itself.

    All replicas compute the same new value from the same reduced gradients, so nothing has to be
    sent when it is assigned, and XLA can compile the whole update. To be used where a model that
    trains so (`Data2Vec`, `Supervised`) and its optimizer are made and built.

    Args:
        strategy: a `tf.distribute.Strategy`.
    """

    def create(next_creator, **kwargs):
        if kwargs.get("aggregation") == tf.VariableAggregation.ONLY_FIRST_REPLICA:
            kwargs["aggregation"] = tf.VariableAggregation.NONE  # a number of updates, say
        return next_creator(**kwargs)

    with strategy.scope(), tf.variable_creator_scope(create):
        yield


def update_as_it_is(optimizer):
    """Makes a Keras optimizer apply gradients as they are given to it.

    Keras adds up the gradients of all replicas after it has clipped each one's own. Here they are
    added up before the optimizer sees them, so that the clipped one is the batch's.

    Args:
        optimizer: a `keras.optimizers.Optimizer`, built under `replica_scope`.

    Raises:
        ValueError: for an optimizer built elsewhere.
    """
    if optimizer.iterations.value.aggregation != tf.VariableAggregation.NONE:
        raise ValueError(
            "In replicas, a model and its optimizer have to be built under "
            "d2v_tf.pretraining.replicas.replica_scope(strategy). "
            f"Received: {type(optimizer).__name__}, built outside of it."
        )

    if getattr(optimizer, "updates_as_it_is", False):
        return

    def apply_weight_decay(self, variables):
        if self.weight_decay is None:
            return
        for variable in [v.value for v in variables]:  # Keras asks by TensorFlow's names, too
            if self._use_weight_decay(variable):
                rate = tf.cast(self.learning_rate, variable.dtype)
                decay = tf.cast(self.weight_decay, variable.dtype)
                variable.assign_sub(variable * decay * rate)

    def backend_update_step(self, gradients, variables, learning_rate):
        for gradient, variable in zip(gradients, variables, strict=True):
            self.update_step(gradient, variable.value, learning_rate)

    optimizer._apply_weight_decay = types.MethodType(apply_weight_decay, optimizer)
    optimizer._backend_update_step = types.MethodType(backend_update_step, optimizer)


def sum_over_replicas(structure):
    """Adds up a structure of tensors over all replicas; every one of them gets the sums.

    What is `None`, such as the gradient of a variable that is not used, stays so.
    """
    context = tf.distribute.get_replica_context()
    flat = tf.nest.flatten(structure)
    sums = iter(context.all_reduce("SUM", [x for x in flat if x is not None]))
    return tf.nest.pack_sequence_as(structure, [x if x is None else next(sums) for x in flat])


def replica_number():
    """The number of the replica that computes this: an int64 scalar."""
    return tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int64)


def predict_on_one_device(*models):
    """Has Keras' `predict` of models in replicas computed on one device, and not on all of them."""
    for model in models:
        model._distribute_strategy = None


def seed_states(model):
    """The states of a model's seed generators, for `seeds_apart`."""
    return [v.value for v in model.non_trainable_variables if "seed_generator" in v.path]


@contextlib.contextmanager
def seeds_apart(states, replica):
    """Lets each replica draw random numbers of its own, from seeds that stay equal in all of them.

    Args:
        states: list of int64 variables `[2]`, of Keras' seed generators.
        replica: int64 scalar tensor. The replica's number; the first draws as it would alone.
    """
    step = tf.stack([replica * SEED_STEP, tf.zeros([], tf.int64)])
    for state in states:
        state.assign_add(step)
    yield
    for state in states:
        state.assign_sub(step)


def replicated_train_function(strategy, train_step, run_eagerly=False):
    """What `fit` calls with its iterator: one `train_step` in every replica.

    Args:
        strategy: a `tf.distribute.Strategy`.
        train_step: function of a replica's batch to logs that are equal in all replicas.
        run_eagerly: bool.

    Returns:
        A function of a distributed iterator to the logs, as tensors.
    """

    @tf.autograph.experimental.do_not_convert
    def step(iterator):
        logs = strategy.run(train_step, args=(next(iterator),))
        return tf.nest.map_structure(lambda log: strategy.experimental_local_results(log)[0], logs)

    return step if run_eagerly else tf.function(step, reduce_retracing=True)
