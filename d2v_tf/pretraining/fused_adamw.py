"""AdamW that updates a variable by one operation."""

import keras
import tensorflow as tf


class FusedAdamW(keras.optimizers.AdamW):
    """Keras' AdamW, with a kernel of TensorFlow's for each variable's whole update.

    The same arithmetic to rounding and the same state. Keras writes it in some twenty operations a
    variable, each of which is traced, optimized, compiled, and passes over memory.

    Gradients are applied as they are given: in replicas, add them up before.

    Raises:
        ValueError: for `amsgrad`, which has no such kernel.
    """

    updates_as_it_is = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.amsgrad:
            raise ValueError("FusedAdamW has no amsgrad. Use keras.optimizers.AdamW.")

    def _apply_weight_decay(self, variables):
        if self.weight_decay is None:
            return
        rate = self.learning_rate * self.weight_decay
        for variable in [v.value for v in variables]:  # Keras asks by TensorFlow's names, too
            if self._use_weight_decay(variable):
                shrink(variable, rate, variable)

    def _backend_update_step(self, gradients, variables, learning_rate):
        step = tf.cast(self.iterations + 1, tf.float32)
        common = {
            "beta1_power": tf.pow(tf.cast(self.beta_1, tf.float32), step),
            "beta2_power": tf.pow(tf.cast(self.beta_2, tf.float32), step),
            "lr": tf.cast(learning_rate, tf.float32),
            "beta1": self.beta_1,
            "beta2": self.beta_2,
            "epsilon": self.epsilon,
        }
        for gradient, variable in zip(gradients, variables, strict=True):
            index = self._get_variable_index(variable)
            tf.raw_ops.ResourceApplyAdam(
                var=variable.value.handle,
                m=self._momentums[index].value.handle,
                v=self._velocities[index].value.handle,
                grad=gradient,
                **common,
            )


def shrink(variable, rate, difference):
    """`variable <- variable - rate * difference`, in one operation.

    Args:
        variable: float32 `tf.Variable`.
        rate: float32 scalar.
        difference: float32 tensor of the variable's shape.
    """
    tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=rate, delta=difference)
