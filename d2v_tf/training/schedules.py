"""Learning-rate schedules of the recipes."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="d2v_tf")
class CosineWithWarmup(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up from 0, then half a cosine down to a final rate.

    Args:
        peak: float. Highest learning rate.
        steps: int. Updates of the whole run, at whose end the final rate is reached.
        warmup_steps: int. Updates of warm-up, fewer than `steps`.
        final_scale: float. The final rate as a part of `peak`.
    """

    def __init__(self, peak, steps, warmup_steps, final_scale=0.0):
        self.peak, self.steps = peak, steps
        self.warmup_steps, self.final_scale = warmup_steps, final_scale

    def __call__(self, step):
        step = ops.cast(step, "float32")
        warmup = (step + 1.0) / max(self.warmup_steps, 1)
        done = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        fallen = self.fall(ops.clip(done, 0.0, 1.0))
        decayed = self.final_scale + (1.0 - self.final_scale) * fallen
        return self.peak * ops.where(step < self.warmup_steps, warmup, decayed)

    def fall(self, done):
        """What is left of the way down, from 1 to 0, after a part `done` of the decay."""
        return 0.5 * (1.0 + ops.cos(3.141592653589793 * done))

    def get_config(self):
        return {
            "peak": self.peak,
            "steps": self.steps,
            "warmup_steps": self.warmup_steps,
            "final_scale": self.final_scale,
        }


@keras.saving.register_keras_serializable(package="d2v_tf")
class LinearWithWarmup(CosineWithWarmup):
    """Linear warm-up from 0, then linear decay to a final rate; RoBERTa's for fine-tuning.

    Args: as `CosineWithWarmup`.
    """

    def fall(self, done):
        return 1.0 - done


@keras.saving.register_keras_serializable(package="d2v_tf")
class TriStage(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, a plateau, then exponential decay (SpecAugment, arXiv 1904.08779).

    Args:
        peak: float. Learning rate of the plateau.
        warmup_steps, hold_steps, decay_steps: ints. Updates of each stage; after them the rate
            stays at the final one.
        initial_scale: float. The first rate as a part of `peak`; fairseq starts from 0.01.
        final_scale: float, above 0. The final rate as a part of `peak`.
    """

    def __init__(
        self, peak, warmup_steps, hold_steps, decay_steps, initial_scale=0.01, final_scale=0.01
    ):
        if final_scale <= 0:
            raise ValueError(
                f"final_scale must be above 0: the decay is exponential. Received: {final_scale}"
            )
        self.peak = peak
        self.warmup_steps, self.hold_steps, self.decay_steps = warmup_steps, hold_steps, decay_steps
        self.initial_scale, self.final_scale = initial_scale, final_scale

    def __call__(self, step):
        step = ops.cast(step, "float32")
        risen = ops.clip(step / max(self.warmup_steps, 1), 0.0, 1.0)
        warmup = self.initial_scale + (1.0 - self.initial_scale) * risen
        decay_start = self.warmup_steps + self.hold_steps
        fallen = ops.clip((step - decay_start) / max(self.decay_steps, 1), 0.0, 1.0)
        decay = ops.power(ops.convert_to_tensor(self.final_scale, dtype="float32"), fallen)
        return self.peak * ops.where(step < self.warmup_steps, warmup, decay)

    def get_config(self):
        return {
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "hold_steps": self.hold_steps,
            "decay_steps": self.decay_steps,
            "initial_scale": self.initial_scale,
            "final_scale": self.final_scale,
        }


def build_schedule(peak, steps, schedule):
    """Returns the schedule that a recipe's `schedule` group asks for.

    Args:
        peak: float. `optimizer.learning_rate`.
        steps: int. Updates of the run.
        schedule: the group, with resolved durations.
    """
    if schedule.kind == "cosine":
        return CosineWithWarmup(peak, steps, schedule.warmup_steps, schedule.final_scale)
    if schedule.kind == "linear":
        return LinearWithWarmup(peak, steps, schedule.warmup_steps, schedule.final_scale)
    if schedule.kind == "tri_stage":
        return TriStage(
            peak,
            schedule.warmup_steps,
            schedule.hold_steps,
            schedule.decay_steps,
            final_scale=schedule.final_scale,
        )
    # A constant rate with warm-up is a cosine that ends where it started.
    return CosineWithWarmup(peak, steps, schedule.warmup_steps, final_scale=1.0)
