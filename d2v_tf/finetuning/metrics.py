"""What a fine-tuned model is measured by: functions of scores and labels, in NumPy.

Scores are what a model gives, `[N, C]`; labels are as in its data: one-hot `[N, C]` for classes,
multi-hot `[N, C]` for tags, numbers `[N, 1]` for a regression. Classes may also be ints `[N]`.
"""

import dataclasses

import numpy as np
from scipy import stats
from sklearn import metrics as sklearn_metrics

from d2v_tf.errors import UserError


class MetricError(UserError):
    """Scores or labels that cannot be measured."""


def accuracy(logits, labels):
    """The part of the examples whose class has the highest logit.

    Args:
        logits: `[N, C]`.
        labels: one-hot `[N, C]` or int `[N]`.

    Returns:
        float in [0, 1].
    """
    predictions, classes = _classes(logits, labels)
    return float(np.mean(predictions == classes))


def f1(logits, labels):
    """F1 of class 1 of two: GLUE's for MRPC and QQP. 0 where it is neither predicted nor there.

    Args and result: as `accuracy`.
    """
    predictions, classes = _classes(logits, labels)
    if np.shape(logits)[1] != 2:
        raise MetricError(
            f"metrics: f1 is of two classes; macro_f1 is of more. Received: {np.shape(logits)[1]}"
        )
    return float(sklearn_metrics.f1_score(classes, predictions, zero_division=0.0))


def macro_f1(logits, labels):
    """The mean of the F1 of every class that is predicted or there.

    Args and result: as `accuracy`.
    """
    predictions, classes = _classes(logits, labels)
    return float(sklearn_metrics.f1_score(classes, predictions, average="macro", zero_division=0.0))


def matthews(logits, labels):
    """Matthews' correlation of predicted and true classes: GLUE's for CoLA.

    Args: as `accuracy`.

    Returns:
        float in [-1, 1]; 0 where it is undefined, as `why_undefined` says.
    """
    predictions, classes = _classes(logits, labels)
    if _is_constant(predictions) or _is_constant(classes):
        return 0.0
    return float(sklearn_metrics.matthews_corrcoef(classes, predictions))


def pearson(scores, labels):
    """The linear correlation of predicted and true numbers: GLUE's for STS-B.

    Args:
        scores, labels: `[N, 1]` or `[N]`.

    Returns:
        float in [-1, 1]; 0 where it is undefined, as `why_undefined` says.
    """
    return _correlation(stats.pearsonr, scores, labels)


def spearman(scores, labels):
    """The correlation of the ranks of predicted and true numbers.

    Args and result: as `pearson`.
    """
    return _correlation(stats.spearmanr, scores, labels)


def mean_average_precision(scores, labels):
    """The mean over the tags of `average_precisions`, without those that no example has.

    Args and raises: as `average_precisions`.

    Returns:
        float in [0, 1].
    """
    return float(np.nanmean(average_precisions(scores, labels)))


def average_precisions(scores, labels):
    """The area under the curve of precision over recall for every tag.

    Args:
        scores: `[N, C]`, higher where a tag is more likely.
        labels: multi-hot `[N, C]`.

    Returns:
        float array `[C]`, NaN for a tag that no example has.

    Raises:
        MetricError: where no example has any tag.
    """
    _check_rows(scores, labels)
    scores, labels = _numbers(scores), np.asarray(labels) > 0.5
    present = labels.any(axis=0)
    if not present.any():
        raise MetricError("metrics: no example has any tag; average precision needs some.")
    found = np.full(labels.shape[1], np.nan)
    for tag in np.flatnonzero(present):
        found[tag] = sklearn_metrics.average_precision_score(labels[:, tag], scores[:, tag])
    return found


def confusion_matrix(logits, labels):
    """How often which class was taken for which.

    Args: as `accuracy`.

    Returns:
        int array `[C, C]`: a row a true class, a column a predicted one.
    """
    predictions, classes = _classes(logits, labels)
    number = np.shape(logits)[1]
    return sklearn_metrics.confusion_matrix(classes, predictions, labels=np.arange(number))


METRICS = {
    "accuracy": accuracy,
    "f1": f1,
    "macro_f1": macro_f1,
    "matthews": matthews,
    "mean_average_precision": mean_average_precision,
    "pearson": pearson,
    "spearman": spearman,
}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a model achieves on a set.

    Attributes:
        scores: dict, name of a metric -> float.
        score: float. Their mean: GLUE's number for a task.
        num_examples: int.
        notes: tuple of str. What was undefined or left out.
    """

    scores: dict[str, float]
    score: float
    num_examples: int
    notes: tuple[str, ...] = ()


def evaluate(names, scores, labels, class_names=None):
    """Measures a model's scores by some metrics.

    Args:
        names: names of `METRICS`, such as a GLUE task's.
        scores, labels: as the metrics take them.
        class_names: optional C strings, for the notes.

    Returns:
        `Evaluation`.

    Raises:
        MetricError: where scores are not finite, or do not fit labels or metrics.
    """
    values = {name: METRICS[name](scores, labels) for name in names}
    notes = [why_undefined(name, scores, labels, class_names) for name in names]
    return Evaluation(
        scores=values,
        score=float(np.mean(list(values.values()))),
        num_examples=len(labels),
        notes=tuple(note for note in notes if note),
    )


def why_undefined(name, scores, labels, class_names=None):
    """What a metric's number leaves out, in a line, or `None` where it leaves out nothing.

    Args: as `evaluate`, for one metric.
    """
    if name == "matthews":
        for kind, values in zip(("predictions", "labels"), _classes(scores, labels), strict=True):
            if _is_constant(values):
                chosen = class_names[values[0]] if class_names else values[0]
                return f"{name} is undefined and counts 0: all {len(values):,} {kind} are {chosen}"
    if name in ("pearson", "spearman"):
        for kind, values in (("predictions", scores), ("labels", labels)):
            values = _numbers(values).reshape(-1)
            if _is_constant(values):
                return (
                    f"{name} is undefined and counts 0: all {len(values):,} {kind} are "
                    f"{values[0]:g}"
                )
    if name == "mean_average_precision":
        absent = np.flatnonzero(np.isnan(average_precisions(scores, labels)))
        if len(absent):
            named = [class_names[tag] if class_names else str(tag) for tag in absent[:5]]
            more = ", ..." if len(absent) > 5 else ""
            return (
                f"{name} leaves out {len(absent)} tags that no example has: "
                f"{', '.join(named)}{more}"
            )
    return None


def bootstrap_interval(metric, scores, labels, level=0.95, draws=1000, seed=0):
    """Where a metric would lie on other examples of the same kind: a percentile bootstrap.

    The examples are drawn anew, with replacement, and measured each time; the interval holds the
    middle `level` of the results. A draw in which no example has a tag is left out. It knows
    nothing of other seeds of the training.

    Args:
        metric: function of (scores, labels), or its name in `METRICS`.
        scores, labels: as the metric takes them.
        level: float.
        draws: int.
        seed: int.

    Returns:
        (float, float).
    """
    metric = METRICS.get(metric, metric)
    scores, labels = np.asarray(scores), np.asarray(labels)
    rng = np.random.default_rng(seed)
    number = len(labels)
    found = []
    for _ in range(draws):
        chosen = rng.integers(0, number, number)
        if labels.ndim == 2 and labels.shape[1] > 1 and not labels[chosen].any():
            continue
        found.append(metric(scores[chosen], labels[chosen]))
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _classes(logits, labels):
    """Predicted and true classes, int arrays `[N]`."""
    _check_rows(logits, labels)
    logits, labels = _numbers(logits), np.asarray(labels)
    if logits.ndim != 2 or (labels.ndim == 2 and labels.shape[1] != logits.shape[1]):
        raise MetricError(
            f"metrics: logits {logits.shape} and labels {labels.shape} must be [N, C] both."
        )
    return logits.argmax(axis=1), labels.argmax(axis=1) if labels.ndim == 2 else labels


def _correlation(function, scores, labels):
    _check_rows(scores, labels)
    scores, labels = _numbers(scores), _numbers(labels)
    if scores.size != len(scores) or labels.size != len(labels):
        raise MetricError(
            f"metrics: scores {scores.shape} and labels {labels.shape} must be [N, 1] both."
        )
    scores, labels = scores.reshape(-1), labels.reshape(-1)
    if _is_constant(scores) or _is_constant(labels):
        return 0.0
    return float(function(scores, labels).statistic)


def _numbers(values):
    """float64, finite."""
    values = np.asarray(values, "float64")
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        raise MetricError(
            f"metrics: the scores of {np.sum(~finite):,} of {len(values):,} examples are not "
            "finite (the first is example "
            f"{np.argmin(finite)}). The model has diverged; measure an earlier checkpoint."
        )
    return values


def _check_rows(scores, labels):
    if not len(labels) or len(scores) != len(labels):
        raise MetricError(
            f"metrics: {len(scores)} rows of scores and {len(labels)} labels; as many of both are "
            "needed, and some."
        )


def _is_constant(values):
    return bool((values == values[0]).all())
