"""All features in a plane."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from d2v_tf.reporting.figures import COLORS, draw
from d2v_tf.reporting.page import REST_COLOR, legend

# With fewer examples there are no neighborhoods to keep.
FEWEST = 10
TSNE_NOTE = "t-SNE: who is near whom means something, how far apart groups lie does not."
FEW_NOTE = "The first two principal components, for t-SNE needs more than these {} examples."


def in_a_plane(pooled):
    """Two coordinates of each example: t-SNE's, or principal components of a few.

    Args:
        pooled: float array `[N, D]`, N at least 2.

    Returns:
        float array `[N, 2]`.
    """
    scale = np.maximum(pooled.std(axis=0), 1e-6)
    features = (pooled - pooled.mean(axis=0)) / scale
    if len(features) < FEWEST:
        flat = PCA(min(2, *features.shape), random_state=0).fit_transform(features)
        return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))
    perplexity = min(30.0, (len(features) - 1) / 3)
    components = min(50, *features.shape)
    features = PCA(components, random_state=0).fit_transform(features)
    # Its threads wait for each other: 0.7 s with one, 18 s with two that share a busy core (300
    # examples, 2026-11).
    with threadpool_limits(1):
        return TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(features)


def embedding(seen):
    """The examples in a plane, colored by label, and how they came there, as HTML."""
    number = len(seen.pooled)
    if number < 2:
        return '<p class="note">There is a single example.</p>'
    points = in_a_plane(seen.pooled)
    classes = most_frequent(seen.labels)
    rest = ~np.isin(seen.labels, classes)
    colors = [COLORS[classes.index(c)] for c in seen.labels[~rest].tolist()]

    def scatter(figure):
        axes = figure.add_subplot()
        axes.scatter(*points[rest].T, c=REST_COLOR, s=14, linewidths=0)
        axes.scatter(*points[~rest].T, c=colors, s=14, linewidths=0)
        axes.set_axis_off()
        axes.set_aspect("equal", "datalim")

    how = FEW_NOTE.format(number) if number < FEWEST else TSNE_NOTE
    svg = draw(scatter, 5.5, 4.2, "examples in a plane, colored by label")
    names = [seen.label(int(np.argmax(seen.labels == c))) for c in classes]
    others = "others" if (seen.labels[rest] >= 0).any() else "no label"
    colored = legend(names, others if rest.any() else "") if names else ""
    return f'<p class="note">{how}</p>{colored}{svg}'


def most_frequent(labels):
    """The classes that get colors, the lowest first.

    Args:
        labels: int array `[N]`, -1 = none.

    Returns:
        list of at most as many int as there are colors.
    """
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    order = np.argsort(-counts, kind="stable")[: len(COLORS)]
    return sorted(classes[order].tolist())
