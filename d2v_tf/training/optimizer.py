"""The optimizer of a recipe, and which weights it decays."""

from d2v_tf.pretraining.fused_adamw import FusedAdamW
from d2v_tf.training.schedules import build_schedule


def is_decayed(variable):
    """Whether weight decay applies: to matrices and kernels only.

    Biases, norms, layer scales, the class token and the mask token have one dimension longer than
    1, or none, and are not decayed.
    """
    return sum(size > 1 for size in variable.shape) > 1


def build_optimizer(recipe, variables):
    """Builds the optimizer on the variables that it will train.

    Adam's weight decay is decoupled from the gradient, as in fairseq's `adam`: `adam` and `adamw`
    differ in nothing here but the recipe's word for it.

    Args:
        recipe: a `Recipe`; its groups `optimizer` and `schedule` and its `steps` are read.
        variables: list of Keras variables.

    Returns:
        A built `FusedAdamW`.
    """
    group = recipe.optimizer
    optimizer = FusedAdamW(
        learning_rate=build_schedule(group.learning_rate, recipe.steps, recipe.schedule),
        weight_decay=group.weight_decay,
        beta_1=group.beta_1,
        beta_2=group.beta_2,
        epsilon=group.epsilon,
        global_clipnorm=group.global_clipnorm,
        name="optimizer",  # Keras would number it, and a checkpoint names it
    )
    optimizer.exclude_from_weight_decay(var_list=[v for v in variables if not is_decayed(v)])
    optimizer.build(variables)
    return optimizer
