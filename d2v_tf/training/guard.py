"""Stops a run that has gone wrong, before it wastes a week."""

import math

import keras

from d2v_tf.errors import UserError

# What is the same everywhere once one of the logged deviations is almost 0.
COLLAPSED = {
    "target_var": "target",
    "pred_var": "prediction",
    "frontend_var": "features from the frontend",
}

# Of numbers that have grown beyond all bounds.
CURES = (
    "Try, in another --workdir, a lower optimizer.learning_rate, a longer schedule.warmup_steps, "
    "optimizer.global_clipnorm (3, say), or precision=float32."
)


class RunStopped(UserError):
    """A run that was stopped because it cannot get well; the message says why and what to try."""


class FiniteGuard(keras.callbacks.Callback):
    """Stops on a loss that is no number.

    Args:
        start: int. Updates made before this fit.

    Raises:
        RunStopped: from the batch where it happens.
    """

    def __init__(self, start):
        super().__init__()
        self.start = start

    def on_train_batch_end(self, batch, logs=None):
        step, loss = self.start + batch + 1, float(logs["loss"])
        if not math.isfinite(loss):
            raise RunStopped(
                f"The loss is {loss} at step {step}. The last good checkpoint is kept. {CURES}"
            )


class HealthGuard(FiniteGuard):
    """Stops on a loss that is no number, and on collapse.

    Collapse: targets or predictions that hardly differ over the masked positions. The reference
    implementation stops after 5,000 updates where target_var < 0.1 or pred_var < 0.01. A frontend
    can collapse behind both of them, and then gives all positions of an example the same features.

    Args:
        start: int. Updates made before this fit.
        guard: a recipe's `guard` group: `after_steps`, the updates before which the variances are
            not looked at, and `min_target_var`, `min_pred_var` and `min_frontend_var`, the lowest
            healthy values.

    Raises:
        RunStopped: from the batch where it happens.
    """

    def __init__(self, start, guard):
        super().__init__(start)
        self.after_steps = guard.after_steps
        self.minimum = {name: getattr(guard, f"min_{name}") for name in COLLAPSED}

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        step = self.start + batch + 1
        if step <= self.after_steps:
            return
        for name, minimum in self.minimum.items():
            value, what = float(logs[name]), COLLAPSED[name]
            if value < minimum:
                raise RunStopped(
                    f"Collapse: {name} is {value:.4g} at step {step}, below guard.min_{name}="
                    f"{minimum:g}: all positions get almost the same {what}. Try, in another "
                    "--workdir, a lower optimizer.learning_rate, a longer schedule.warmup_steps, a "
                    "higher data2vec.ema (the first two numbers), or more "
                    "data2vec.num_target_layers."
                )
