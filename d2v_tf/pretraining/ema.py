"""The exponential moving average that makes the student's past its teacher."""

from keras import ops


def ema_decay(step, tau_0, tau_e, tau_n):
    """The decay of update `step` (arXiv 2202.03555, section 3.2).

    Rises linearly from `tau_0` to `tau_e` over the first `tau_n` updates and stays there.

    Args:
        step: int scalar tensor. Updates made before this one.
        tau_0, tau_e: floats in [0, 1].
        tau_n: int. 0 means `tau_e` from the start.

    Returns:
        float32 scalar.
    """
    if tau_n == 0:
        return ops.convert_to_tensor(tau_e, dtype="float32")
    done = ops.minimum(ops.cast(step, "float32") / tau_n, 1.0)
    return tau_0 + (tau_e - tau_0) * done


def update_teacher(teacher, student, decay):
    """Moves the teacher: `t <- decay * t + (1 - decay) * s`, in float32.

    Args:
        teacher: list of float32 variables.
        student: list of variables of the same shapes, in the same order.
        decay: float32 scalar.
    """
    for target, source in zip(teacher, student, strict=True):
        new = decay * target + (1.0 - decay) * ops.cast(source, "float32")
        target.assign(new)
