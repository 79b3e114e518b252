"""Which examples a backbone takes for alike: nearest neighbors of mean-pooled features."""

import numpy as np

from d2v_tf.reporting.figures import escape

NUM_QUERIES, NUM_NEIGHBORS = 6, 5


def nearest(pooled, number):
    """The nearest other examples by cosine similarity.

    Args:
        pooled: float array `[N, D]`.
        number: int. At most N - 1 are found.

    Returns:
        (int array `[N, number]`, nearest first; float array `[N, number]`, how similar).
    """
    # What all examples share says nothing of how alike two of them are.
    centered = pooled - pooled.mean(axis=0)
    unit = centered / np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), 1e-12)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    number = min(number, len(pooled) - 1)
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :number]
    return order, np.take_along_axis(similarity, order, axis=1)


def shared_labels(order, labels):
    """How often a neighbor has the label of the example, and how often any other one would.

    Args:
        order: int array `[N, K]`, of `nearest`.
        labels: int array `[N]`, -1 = none.

    Returns:
        (float, float) in [0, 1], or `None` where there are not two labels.
    """
    known = labels >= 0
    if len(np.unique(labels[known])) < 2:
        return None
    same = labels[order] == labels[:, None]
    counts = np.bincount(labels[known])[labels[known]]
    chance = float((counts - 1).sum() / (known.sum() * (len(labels) - 1)))
    return float(same[known].mean()), chance


def neighbors(seen, show):
    """A few examples with their nearest neighbors, as HTML.

    Args:
        seen: `Seen`.
        show: function of an example's input to HTML.
    """
    if len(seen.inputs) < 2:
        return '<p class="note">There is a single example.</p>'
    order, similarity = nearest(seen.pooled, NUM_NEIGHBORS)
    rows = []
    for query in np.linspace(0, len(order) - 1, min(NUM_QUERIES, len(order))).astype(int):
        cells = [f"<div>{show(seen.inputs[query])}<b>{escape(seen.label(query))}</b></div>"]
        for other, alike in zip(order[query], similarity[query], strict=True):
            label = seen.label(other)
            mark = "" if label == seen.label(query) or not label else " ✗"
            cells.append(
                f"<div>{show(seen.inputs[other])}{escape(label)}{mark}"
                f'<span class="soft"> {alike:.2f}</span></div>'
            )
        rows.append(f'<div class="neighbors">{"".join(cells)}</div>')
    shared = shared_labels(order, seen.labels)
    told = ""
    if shared is not None:
        told = (
            f'<p class="note">Of all {len(order)} examples, {100 * shared[0]:.0f}% of the '
            f"{order.shape[1]} nearest neighbors have the example's own label; by chance it would "
            f"be {100 * shared[1]:.0f}%.</p>"
        )
    return told + "".join(rows)
