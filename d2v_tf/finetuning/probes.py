"""What a frozen representation is worth: nearest neighbours and a linear classifier on it."""

import numpy as np
from keras import ops
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize


def mean_pooled_features(backbone, dataset):
    """The mean of a backbone's last hidden states over the sequence, without prefix tokens.

    Args:
        backbone: a `Data2VecBackbone`.
        dataset: iterable of (inputs, labels `[B]`).

    Returns:
        (float32 array `[N, D]`, int array `[N]`).
    """
    features, labels = [], []
    for inputs, batch_labels in dataset:
        hidden = backbone.predict_on_batch(inputs)
        features.append(np.asarray(ops.cast(hidden, "float32"))[:, backbone.num_prefix_tokens :])
        features[-1] = features[-1].mean(axis=1)
        labels.append(np.asarray(batch_labels))
    return np.concatenate(features), np.concatenate(labels)


def raw_features(dataset):
    """The inputs themselves, flattened: what a representation has to beat.

    Args:
        dataset: iterable of (inputs `[B, ...]`, labels `[B]`).

    Returns:
        (float32 array `[N, D]`, int array `[N]`).
    """
    pairs = [(np.asarray(x).reshape(len(x), -1), np.asarray(y)) for x, y in dataset]
    return np.concatenate([x for x, _ in pairs]), np.concatenate([y for _, y in pairs])


def knn_accuracy(train, test, num_neighbors=20):
    """Accuracy of a majority vote of the nearest training examples by cosine similarity.

    Args:
        train, test: (features `[N, D]`, labels `[N]`).
        num_neighbors: int. At most the number of training examples is used.

    Returns:
        float in [0, 1].
    """
    num_neighbors = min(num_neighbors, len(train[1]))
    # On unit vectors the Euclidean order is the cosine order.
    classifier = KNeighborsClassifier(num_neighbors).fit(normalize(train[0]), train[1])
    return float(classifier.score(normalize(test[0]), test[1]))


def linear_probe_accuracy(train, test, regularization=10.0):
    """Accuracy of multinomial logistic regression on standardised features.

    Args:
        train, test: (features `[N, D]`, labels `[N]`).
        regularization: float. Weight of the squared norm of the weights (1 / C).

    Returns:
        float in [0, 1].
    """
    classifier = make_pipeline(
        StandardScaler(), LogisticRegression(C=1 / regularization, max_iter=1000, tol=1e-3)
    )
    return float(classifier.fit(*train).score(*test))


def probe(train, test):
    """Both probes of the same features.

    Args:
        train, test: (features `[N, D]`, labels `[N]`).

    Returns:
        dict of floats in [0, 1]: `"knn"` and `"linear"`.
    """
    return {"knn": knn_accuracy(train, test), "linear": linear_probe_accuracy(train, test)}
