"""Features of new files: one vector each, or one a patch, frame or token."""

import numpy as np

from d2v_tf.data.reading import DataError
from d2v_tf.evaluation.running import input_maker, run_examples
from d2v_tf.finetuning.probes import hidden_states, mean_of_real, probe


def extract_features(backbone, preprocessing, examples, per_position=False, **options):
    """The last hidden states of examples.

    Args:
        backbone: `Data2VecBackbone`.
        preprocessing: what `d2v_tf.load_preprocessing` gives.
        examples: `Examples`.
        per_position: bool. Whether to keep one vector a patch, frame or token, padding and prefix
            tokens left out, instead of their mean.
        **options: of `run_examples`.

    Returns:
        (int64 array `[M]`, the examples that could be read; list of M float32 arrays, `[D]` or
        `[T, D]`).
    """

    def features(inputs):
        hidden, mask = hidden_states(backbone, inputs)
        if per_position:
            return [row[real] for row, real in zip(hidden, mask, strict=True)]
        return list(mean_of_real(hidden, mask))

    return run_examples(examples, input_maker(preprocessing, backbone), features, **options)


def probe_backbone(backbone, preprocessing, train, test, **options):
    """What frozen, mean-pooled features are worth: nearest neighbors and a linear classifier.

    Args:
        backbone, preprocessing: as for `extract_features`.
        train, test: `Examples` with one class each.
        **options: of `run_examples`.

    Returns:
        dict: `"knn"` and `"linear"`, floats in [0, 1], and the numbers of examples of both.

    Raises:
        DataError: where either has no classes, or there are fewer than two.
    """
    parts = []
    for examples in (train, test):
        if examples.labels is None or examples.labels.ndim != 1 or examples.class_names is None:
            raise DataError(f"data: {examples.name} has no classes to probe with.")
        indices, features = extract_features(backbone, preprocessing, examples, **options)
        labelled = examples.labels[indices] >= 0
        names = np.array(examples.class_names)[examples.labels[indices][labelled]]
        parts.append((np.stack(features)[labelled], names))
    if len(np.unique(parts[0][1])) < 2:
        raise DataError(f"data: {train.name} has a single class: there is nothing to tell apart.")
    counts = {"train_examples": len(parts[0][1]), "test_examples": len(parts[1][1])}
    return {**probe(*parts), **counts}
