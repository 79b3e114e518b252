"""The weights that a run starts from, where they are not random."""

import json
import os
import shlex

import keras

from d2v_tf.errors import UserError
from d2v_tf.interop.loading import load_start
from d2v_tf.interop.resizing import resize_backbone
from d2v_tf.training.checkpoints import read_newest

# What a recipe decides whatever the weights were trained with: rates, gradients, first values.
FREE_ARGUMENTS = {
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "feature_dropout",
    "drop_path_rate",
    "layer_drop",
    "feature_grad_mult",
    "token_stddev",
    "position_initializer",
    "position_stddev",
    "name",
    "trainable",
    "dtype",
}


class StartError(UserError):
    """Weights that this run cannot start from, with what to do about it."""


def start_from(model, recipe):
    """Gives a model the weights of `recipe.init`: student, teacher and regression head.

    The teacher's blocks are those of the file where it has them, otherwise a copy of the student's;
    the head is the file's, or that of a run's newest checkpoint, where it fits, otherwise as it is.
    Position tables are resized for the recipe's images.

    Args:
        model: a `Data2Vec` of this recipe.
        recipe: a resolved `Recipe` with `init`, a path that `d2v_tf.load_backbone` reads.

    Returns:
        list of str, what was done.

    Raises:
        StartError: names every argument of the model in which the two differ.
        WeightsError: for a path that cannot be read.
    """
    path, student = recipe.init, model.student
    start = load_start(path)
    backbone, teacher = start.backbone, start.teacher
    if type(backbone) is not type(student):
        raise StartError(
            f"--init={path} holds a {type(backbone).__name__} and the recipe is for "
            f"{recipe.modality}, a {type(student).__name__}."
        )
    lines = [start.report.summary()]
    if recipe.modality == "vision" and backbone.image_shape != student.image_shape:
        if backbone.image_shape[2] == student.image_shape[2]:
            lines.append(
                f"its positions are resized from images of {backbone.image_shape[:2]} to "
                f"{student.image_shape[:2]}"
            )
            backbone, teacher = (
                None if b is None else resize_backbone(b, student.image_shape)
                for b in (backbone, teacher)
            )
    _check_arguments(path, student, backbone, recipe)
    if start.report.unused:
        lines.append(f"not read: {', '.join(start.report.unused)}")
    _assign(student, backbone)
    model.reset_teacher()
    if teacher is None:
        lines.append("the teacher is a copy of the student, as it is when a run begins")
    else:
        _assign(model.teacher, teacher.encoder)
        lines.append(f"the teacher's blocks are from {len(start.teacher_keys)} tensors of it")
        shared = [
            key
            for key in start.report.pretraining
            if key not in start.teacher_keys and key not in start.head_keys
        ]
        if shared:
            lines.append(f"shared with the student here, so not read: {', '.join(shared)}")
    head, source = list(start.head), ", ".join(start.head_keys)
    if not head:
        names = [weight.path for weight in model.head.weights]
        head = read_newest(os.path.join(path, "checkpoints"), names)  # of one of our runs
        source = "its newest checkpoint"
    lines.append(_start_head(model, head, source))
    return lines


def _check_arguments(path, student, backbone, recipe):
    """Refuses a backbone that is not built as the recipe's is."""
    theirs, ours = backbone.get_config(), student.get_config()
    differ = []
    for name in sorted(set(theirs) - FREE_ARGUMENTS):
        one, two = theirs[name], ours[name]
        if name == "layer_scale_init_value":  # the scales' first values
            one, two = one is not None, two is not None
        if _plain(one) != _plain(two):
            differ.append(name)
    if not differ:
        return
    listed = [f"{name} is {theirs[name]!r} and {ours[name]!r}" for name in differ]
    settings = [
        "--set " + shlex.quote(f"model.{name}={_as_yaml(theirs[name])}")
        for name in differ
        if hasattr(recipe.model, name)
    ]
    fixed = [name for name in differ if not hasattr(recipe.model, name)]
    advice = f" For a model like it: {' '.join(settings)}." if settings else ""
    if fixed:
        advice += f" No recipe sets {', '.join(fixed)}: such weights cannot be started from."
    raise StartError(
        f"--init={path} is another model than the recipe's: {'; '.join(listed)}.{advice}"
    )


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def _as_yaml(value):
    return value if isinstance(value, str) else json.dumps(value)


def _assign(target, source):
    for one, two in zip(target.weights, source.weights, strict=True):
        one.assign(two)


def _start_head(model, arrays, source):
    """Assigns the regression head where it fits; says what it is."""
    weights = model.head.weights
    if not arrays:
        return "the regression head is fresh, as none stands beside it"
    if [array.shape for array in arrays] != [weight.shape for weight in weights]:
        widths = [
            " -> ".join(str(n) for n in [kernels[0].shape[0], *(k.shape[1] for k in kernels)])
            for kernels in (arrays[::2], weights[::2])
        ]
        return f"the regression head is fresh: {source} is {widths[0]}, this one {widths[1]}"
    for weight, array in zip(weights, arrays, strict=True):
        weight.assign(keras.ops.convert_to_tensor(array))
    return f"the regression head is from {source}"
