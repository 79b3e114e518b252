"""Part of a source's labelled examples, as when only 1% of the labels may be used."""

import numpy as np

from d2v_tf.data.reading import DataError


def stratified_subset(labels, fraction, seed):
    """Chooses a fraction of the examples of every class, at least one of each.

    Of several labels an example, the rarest class chooses first, and an example counts for all of
    its classes; so frequent classes may get a few more than their fraction, none gets fewer
    (after Sechidis et al. 2011, without their balancing of several folds).

    Args:
        labels: int array `[N]`, -1 where there is none; or bool `[N, C]`, multi-hot.
        fraction: float in (0, 1].
        seed: int.

    Returns:
        bool array `[N]`, a function of the arguments alone. An example without a label is never
        chosen in `[N]`; in `[N, C]`, where it says that no class applies, it is as a class.

    Raises:
        DataError: where the fraction is none, or no example has a label.
    """
    if not 0 < fraction <= 1:
        raise DataError(
            f"data: a fraction of the labels must be above 0 and at most 1. Received: {fraction}"
        )
    labels = np.asarray(labels)
    if labels.ndim == 1:
        members = [np.flatnonzero(labels == number) for number in np.unique(labels[labels >= 0])]
    else:
        columns = np.concatenate([labels, ~labels.any(axis=1, keepdims=True)], axis=1)
        members = [np.flatnonzero(column) for column in columns.T if column.any()]
    if not members:
        raise DataError(f"data: none of the {len(labels)} examples has a label to take part of.")
    rng = np.random.Generator(np.random.PCG64([seed]))
    keep = np.zeros(len(labels), bool)
    for candidates in sorted(members, key=len):
        wanted = max(1, round(fraction * len(candidates))) - keep[candidates].sum()
        free = rng.permutation(candidates[~keep[candidates]])
        keep[free[: max(wanted, 0)]] = True
    return keep
