"""What a frozen representation is worth: nearest neighbours and a linear classifier on it."""

import numpy as np
from keras import ops
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler, normalize

from d2v_tf.data.reading import DataError


def mean_pooled_features(backbone, dataset):
    """The mean of a backbone's last hidden states over the real positions, without prefix tokens.

    Args:
        backbone: a `Data2VecBackbone`.
        dataset: iterable of (inputs, labels `[B]`).

    Returns:
        (float32 array `[N, D]`, int array `[N]`).
    """
    features, labels = [], []
    for inputs, batch_labels in dataset:
        features.append(mean_of_real(*hidden_states(backbone, inputs)))
        labels.append(np.asarray(batch_labels))
    return joined_features(features, labels)


def hidden_states(backbone, inputs):
    """A backbone's last hidden states without prefix tokens, and which of them are real.

    Args:
        backbone: a `Data2VecBackbone`.
        inputs: what it is called with.

    Returns:
        (float32 array `[B, T, D]`, bool array `[B, T]`).
    """
    hidden = ops.convert_to_numpy(ops.cast(backbone.predict_on_batch(inputs), "float32"))
    hidden = hidden[:, backbone.num_prefix_tokens :]
    mask = backbone.feature_padding_mask(inputs)
    if mask is None:
        return hidden, np.ones(hidden.shape[:2], bool)
    return hidden, ops.convert_to_numpy(mask)


def mean_of_real(hidden, mask):
    """The mean over real positions: `[B, T, D]` and `[B, T]` -> float32 array `[B, D]`."""
    weights = mask / np.maximum(mask.sum(axis=1, keepdims=True), 1)
    return np.einsum("btd,bt->bd", hidden, weights).astype("float32")


def raw_features(dataset, size=32):
    """The images themselves, flattened: what a representation has to beat.

    Args:
        dataset: iterable of (images `[B, H, W, C]`, labels `[B]`).
        size: int. Larger images are averaged down to this many pixels a side.

    Returns:
        (float32 array `[N, D]`, int array `[N]`).
    """
    features, labels = [], []
    for images, batch_labels in dataset:
        height, width = images.shape[1:3]
        if max(height, width) > size:
            images = ops.image.resize(images, (size, size), antialias=True)
        features.append(np.asarray(ops.reshape(images, (len(images), -1)), "float32"))
        labels.append(np.asarray(batch_labels))
    return joined_features(features, labels)


def joined_features(features, labels):
    """The features and the labels of all batches.

    Args:
        features: list of arrays `[B, D]`.
        labels: list of arrays `[B]`.

    Returns:
        (array `[N, D]`, array `[N]`); `[0, 0]` and `[0]` of an empty dataset.
    """
    if not labels:  # concatenate would refuse
        return np.zeros((0, 0), "float32"), np.zeros(0, "int64")
    return np.concatenate(features), np.concatenate(labels)


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


def linear_probe_accuracy(train, test, strengths=(0.001, 0.01, 0.1)):
    """Accuracy of multinomial logistic regression on standardised features.

    Pixels need more regularisation than good features do: its strength (scikit-learn's C) is the
    one that does best on every fifth training example, and is then used with all of them.

    Args:
        train, test: (features `[N, D]`, labels `[N]`).
        strengths: floats to choose from.

    Returns:
        float in [0, 1].

    Raises:
        DataError: for too few examples to learn from.
    """
    held_out = np.arange(len(train[1])) % 5 == 4
    if not held_out.any() or len(np.unique(train[1][~held_out])) < 2:
        raise DataError(
            f"A linear probe needs examples of two classes or more among four fifths of the "
            f"{len(train[1])} that it learns from, and five in all. Name more --train_data."
        )
    scaler = StandardScaler().fit(train[0])
    features, labels = scaler.transform(train[0]), train[1]

    def fit(strength, features, labels):
        return LogisticRegression(C=strength, max_iter=1000, tol=1e-3).fit(features, labels)

    scores = [
        fit(c, features[~held_out], labels[~held_out]).score(features[held_out], labels[held_out])
        for c in strengths
    ]
    best = fit(strengths[int(np.argmax(scores))], features, labels)
    return float(best.score(scaler.transform(test[0]), test[1]))


def probe(train, test):
    """Both probes of the same features.

    Args:
        train, test: (features `[N, D]`, labels `[N]`).

    Returns:
        dict of floats in [0, 1]: `"knn"` and `"linear"`.
    """
    return {"knn": knn_accuracy(train, test), "linear": linear_probe_accuracy(train, test)}
