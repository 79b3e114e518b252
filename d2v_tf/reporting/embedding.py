"""All features in a plane."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from d2v_tf.reporting.figures import COLORS, draw
from d2v_tf.reporting.page import legend

# With fewer examples there are no neighborhoods to keep.
FEWEST = 10


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
    """The examples in a plane, colored by label, as HTML."""
    if len(seen.pooled) < 2:
        return '<p class="note">There is a single example.</p>'
    points = in_a_plane(seen.pooled)
    classes = [int(c) for c in np.unique(seen.labels[seen.labels >= 0])]
    number = {c: i for i, c in enumerate(classes)}
    colors = [COLORS[number[int(c)] % len(COLORS)] if c >= 0 else "#888888" for c in seen.labels]

    def scatter(figure):
        axes = figure.add_subplot()
        axes.scatter(*points.T, c=colors, s=14, linewidths=0)
        axes.set_axis_off()
        axes.set_aspect("equal", "datalim")

    svg = draw(scatter, 5.5, 4.2, "examples in a plane, colored by label")
    first = [int(np.flatnonzero(seen.labels == c)[0]) for c in classes]
    return legend([seen.label(i) for i in first]) + svg
