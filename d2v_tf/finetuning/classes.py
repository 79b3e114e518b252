"""What the classifiers have in common: the names of their classes, and what they train with."""

import keras


def check_class_names(class_names, num_classes):
    """The names as a tuple, or `None`.

    Raises:
        ValueError: where there are not `num_classes` different ones.
    """
    if class_names is None:
        return None
    names = tuple(class_names)
    if len(names) != num_classes or len(set(names)) != len(names):
        raise ValueError(
            f"class_names must be {num_classes} different names, one a class. Received: "
            f"{len(names)} names, {len(set(names))} of them different: {names}"
        )
    return names


def loss_and_metrics(num_classes, multi_label=False):
    """What `compile()` takes for a classifier where it is not told.

    Args:
        num_classes: int. 1 is a regression.
        multi_label: bool. Whether an example may have several classes, or none.

    Returns:
        (loss, list of metrics): for int labels `[B]`, multi-hot labels `[B, C]`, or numbers
        `[B, 1]`.
    """
    if num_classes == 1 and not multi_label:
        return keras.losses.MeanSquaredError(), [keras.metrics.RootMeanSquaredError()]
    if multi_label:
        return (
            keras.losses.BinaryCrossentropy(from_logits=True),
            [keras.metrics.BinaryAccuracy(threshold=0.0)],  # of logits
        )
    return (
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        [keras.metrics.SparseCategoricalAccuracy()],
    )


def default_compile_arguments(task, multi_label=False, **arguments):
    """Fills in what `compile` was called with as `"auto"`, in the manner of `keras_hub`.

    Args:
        task: has `num_classes`.
        arguments: of `compile`; those that are `"auto"` are replaced.

    Returns:
        dict for `keras.Model.compile`.
    """
    loss, metrics = loss_and_metrics(task.num_classes, multi_label)
    defaults = {"optimizer": keras.optimizers.AdamW(5e-5), "loss": loss, "metrics": metrics}
    return {
        name: defaults[name] if isinstance(value, str) and value == "auto" else value
        for name, value in arguments.items()
    }
