"""Metrics against their formulas in NumPy, and what is said where they have none."""

import numpy as np
import pytest

from d2v_tf.finetuning.metrics import (
    METRICS,
    MetricError,
    accuracy,
    average_precisions,
    bootstrap_interval,
    confusion_matrix,
    evaluate,
    f1,
    macro_f1,
    matthews,
    mean_average_precision,
    pearson,
    spearman,
    why_undefined,
)


def draw(number=200, classes=2, seed=0):
    """Logits that know something of the one-hot labels."""
    rng = np.random.default_rng(seed)
    labels = np.eye(classes, dtype="float32")[rng.integers(0, classes, number)]
    return labels + rng.normal(0, 1, (number, classes)).astype("float32"), labels


def counts(logits, labels, positive=1):
    """True and false positives, true and false negatives, counted one by one."""
    found = {"tp": 0, "fp": 0, "tn": 0, "fn": 0}
    for row, label in zip(logits, labels, strict=True):
        predicted, true = int(np.argmax(row)) == positive, int(np.argmax(label)) == positive
        found[("t" if predicted == true else "f") + ("p" if predicted else "n")] += 1
    return tuple(found.values())


def plain_f1(logits, labels, positive=1):
    tp, fp, _, fn = counts(logits, labels, positive)
    return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0


def plain_correlation(x, y):
    x, y = np.asarray(x, "float64").ravel(), np.asarray(y, "float64").ravel()
    x, y = x - x.mean(), y - y.mean()
    return (x @ y) / np.sqrt((x @ x) * (y @ y))


def plain_ranks(x):
    """The mean of the places that equal numbers share."""
    x = np.asarray(x).ravel()
    return np.array([np.sum(x < value) + (np.sum(x == value) + 1) / 2 for value in x])


def plain_average_precision(scores, labels):
    """The mean precision at each true example, best score first; scores that differ."""
    order = np.argsort(-scores)
    hits = labels[order].astype(bool)
    return np.mean([hits[: k + 1].mean() for k in np.flatnonzero(hits)])


# Formulas.


@pytest.mark.parametrize("seed", range(3))
def test_two_classes_equal_the_formulas(seed):
    logits, labels = draw(seed=seed)
    tp, fp, tn, fn = counts(logits, labels)
    assert min(tp, fp, tn, fn) > 10 and fp != fn
    assert accuracy(logits, labels) == pytest.approx((tp + tn) / 200)
    assert f1(logits, labels) == pytest.approx(2 * tp / (2 * tp + fp + fn))
    expected = (tp * tn - fp * fn) / np.sqrt(float((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))
    assert matthews(logits, labels) == pytest.approx(expected)


def test_several_classes_equal_the_formulas():
    logits, labels = draw(classes=5)
    predictions, classes = logits.argmax(1), labels.argmax(1)
    assert accuracy(logits, labels) == np.mean(predictions == classes)
    expected = np.mean([plain_f1(logits, labels, c) for c in range(5)])
    assert macro_f1(logits, labels) == pytest.approx(expected)
    # Matthews of several classes is the correlation of one-hot predictions and labels, their
    # covariances added up over the classes.
    one_hot = np.eye(5)[predictions] - np.eye(5)[predictions].mean(axis=0)
    truth = labels - labels.mean(axis=0)
    expected = (one_hot * truth).sum() / np.sqrt((one_hot**2).sum() * (truth**2).sum())
    assert matthews(logits, labels) == pytest.approx(expected)
    matrix = confusion_matrix(logits, labels)
    for true in range(5):
        for predicted in range(5):
            expected = np.sum((classes == true) & (predictions == predicted))
            assert matrix[true, predicted] == expected


def test_int_labels_are_classes_too():
    logits, labels = draw(classes=4)
    for metric in (accuracy, macro_f1, matthews):
        assert metric(logits, labels.argmax(axis=1)) == metric(logits, labels)


def test_a_class_that_is_nowhere_is_no_part_of_macro_f1_and_a_row_of_the_matrix():
    logits, labels = draw(classes=3)
    logits, labels = (
        np.pad(logits, [(0, 0), (0, 1)], constant_values=-9),
        np.pad(labels, [(0, 0), (0, 1)]),
    )
    expected = np.mean([plain_f1(logits, labels, c) for c in range(3)])
    assert macro_f1(logits, labels) == pytest.approx(expected)
    assert confusion_matrix(logits, labels).shape == (4, 4)


def test_correlations_equal_the_formulas():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, (150, 1)).astype("float32")  # many are equal
    scores = (np.exp(labels) + rng.normal(0, 20, (150, 1))).astype("float32")
    assert pearson(scores, labels) == pytest.approx(plain_correlation(scores, labels))
    expected = plain_correlation(plain_ranks(scores), plain_ranks(labels))
    assert spearman(scores, labels) == pytest.approx(expected)
    assert abs(pearson(scores, labels) - expected) > 0.01
    assert spearman(scores.ravel(), labels) == pytest.approx(expected)


def test_average_precision_equals_the_formula():
    rng = np.random.default_rng(0)
    labels = (rng.random((120, 4)) < [0.1, 0.5, 0.9, 0.0]).astype("float32")
    scores = rng.normal(labels, 1.0)
    each = average_precisions(scores, labels)
    expected = [plain_average_precision(scores[:, c], labels[:, c]) for c in range(3)]
    np.testing.assert_allclose(each[:3], expected)
    assert np.isnan(each[3])
    assert mean_average_precision(scores, labels) == pytest.approx(np.mean(expected))


# What is undefined.


def test_constant_predictions_have_no_correlation_and_say_so():
    _, labels = draw(50)
    constant = np.tile([0.0, 1.0], (50, 1))
    found = evaluate(["accuracy", "matthews"], constant, labels, ("no", "yes"))
    assert found.scores["matthews"] == 0.0
    assert found.notes == ("matthews is undefined and counts 0: all 50 predictions are yes",)
    assert found.score == found.scores["accuracy"] / 2
    numbers = np.arange(50.0)[:, None]
    found = evaluate(["pearson", "spearman"], np.full((50, 1), 2.5), numbers)
    assert found.scores == {"pearson": 0.0, "spearman": 0.0} and len(found.notes) == 2
    assert found.notes[0] == "pearson is undefined and counts 0: all 50 predictions are 2.5"
    found = evaluate(["pearson"], numbers, np.full((50, 1), 3.0))
    assert found.notes == ("pearson is undefined and counts 0: all 50 labels are 3",)


def test_a_class_that_is_never_there_gives_numbers():
    logits, labels = np.tile([1.0, 0.0], (9, 1)), np.tile([1.0, 0.0], (9, 1))
    assert accuracy(logits, labels) == 1.0
    assert f1(logits, labels) == 0.0
    assert macro_f1(logits, labels) == 1.0
    assert matthews(logits, labels) == 0.0
    assert confusion_matrix(logits, labels).tolist() == [[9, 0], [0, 0]]


def test_tags_that_no_example_has_are_named():
    scores, labels = np.random.default_rng(0).random((2, 30, 3))
    labels = (labels > 0.5) * [1, 0, 1]
    note = why_undefined("mean_average_precision", scores, labels, ("dog", "cat", "rain"))
    assert note == "mean_average_precision leaves out 1 tags that no example has: cat"
    with pytest.raises(MetricError, match="no example has any tag"):
        mean_average_precision(scores, labels * 0)


def test_good_predictions_have_no_notes():
    logits, labels = draw()
    assert evaluate(["accuracy", "f1", "matthews"], logits, labels).notes == ()
    found = evaluate(["accuracy", "f1"], logits, labels)
    assert found.num_examples == 200
    assert found.score == pytest.approx((accuracy(logits, labels) + f1(logits, labels)) / 2)


@pytest.mark.parametrize("name", METRICS)
def test_scores_that_are_not_finite_are_refused(name):
    scores, labels = draw(20)
    if name in ("pearson", "spearman"):
        scores, labels = scores[:, :1], labels[:, :1]
    scores[[3, 7]] = np.nan
    with pytest.raises(MetricError, match="2 of 20 examples are not finite .* example 3"):
        METRICS[name](scores, labels)


def test_what_does_not_fit_is_refused():
    logits, labels = draw(20, classes=3)
    with pytest.raises(MetricError, match="f1 is of two classes; .* Received: 3"):
        f1(logits, labels)
    with pytest.raises(MetricError, match=r"logits .20, 3. and labels .20, 2. must be"):
        accuracy(logits, labels[:, :2])
    with pytest.raises(MetricError, match="20 rows of scores and 19 labels"):
        accuracy(logits, labels[:-1])
    with pytest.raises(MetricError, match="0 rows of scores and 0 labels"):
        accuracy(logits[:0], labels[:0])
    with pytest.raises(MetricError, match=r"scores .20, 3. and labels .20, 1. must be .N, 1."):
        pearson(logits, labels[:, :1])


# Intervals.


def test_the_interval_of_an_accuracy_is_a_binomials():
    rng = np.random.default_rng(0)
    correct = rng.random(400) < 0.8
    logits = np.where(correct[:, None], [0.0, 1.0], [1.0, 0.0])
    labels = np.tile([0.0, 1.0], (400, 1))
    part = correct.mean()
    deviation = np.sqrt(part * (1 - part) / 400)
    low, high = bootstrap_interval(accuracy, logits, labels, draws=2000)
    assert low == pytest.approx(part - 1.96 * deviation, abs=0.15 * deviation + 1 / 400)
    assert high == pytest.approx(part + 1.96 * deviation, abs=0.15 * deviation + 1 / 400)
    narrow = bootstrap_interval("accuracy", logits, labels, level=0.5, draws=2000)
    assert narrow[1] - narrow[0] == pytest.approx(2 * 0.674 * deviation, abs=2 / 400)


def test_the_interval_is_a_function_of_the_seed():
    logits, labels = draw(60)
    first = bootstrap_interval(matthews, logits, labels, draws=50, seed=1)
    assert first == bootstrap_interval("matthews", logits, labels, draws=50, seed=1)
    assert first != bootstrap_interval("matthews", logits, labels, draws=50, seed=2)
    assert first[0] < matthews(logits, labels) < first[1]


def test_draws_without_a_class_count_as_undefined():
    logits, labels = draw(4)
    low, high = bootstrap_interval(matthews, logits, labels, draws=100)
    assert -1 <= low <= high <= 1


def test_an_interval_where_many_draws_have_no_tag():
    scores = np.array([[0.9, 0.1], [0.2, 0.3], [0.1, 0.2], [0.3, 0.4]])
    labels = np.array([[1, 0], [0, 0], [0, 0], [0, 0]])
    low, high = bootstrap_interval("mean_average_precision", scores, labels, draws=200)
    assert 0 < low <= high <= 1
