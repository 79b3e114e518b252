"""What the student regresses to: the teacher's averaged blocks, and how far off it is."""

from keras import ops

TARGET_NORMS = (None, "layer", "instance", "batch")
# PyTorch's default, which the reference normalises targets with.
EPSILON = 1e-5


def normalize(x, norm, padding_mask=None, add_up=None):
    """Normalises features to zero mean and unit variance, without learned weights.

    Args:
        x: float32 `[B, T, D]`.
        norm: `"layer"` (over D), `"instance"` (over T, per example and channel), `"batch"` (over B
            and T, per channel) or `None`, which gives `x` back.
        padding_mask: optional `[B, T]`, 1 = real. Padding stays out of the statistics over T.
        add_up: optional function of a tensor to its sum over replicas, for `"batch"`, whose
            statistics are those of the whole batch.

    Raises:
        ValueError: for another norm.
    """
    if norm not in TARGET_NORMS:
        raise ValueError(f"target_norm must be one of {TARGET_NORMS}. Received: {norm!r}")
    if norm is None:
        return x
    if norm == "layer":
        mean = ops.mean(x, axis=-1, keepdims=True)
        variance = ops.mean(ops.square(x - mean), axis=-1, keepdims=True)
        return (x - mean) * ops.rsqrt(variance + EPSILON)
    axes = (1,) if norm == "instance" else (0, 1)
    if padding_mask is None:
        weights = ops.ones_like(x[..., :1])
    else:
        weights = ops.cast(padding_mask, x.dtype)[..., None]  # [B, T, 1]
    if norm != "batch" or add_up is None:
        add_up = _as_it_is
    count = ops.maximum(add_up(ops.sum(weights, axis=axes, keepdims=True)), 1.0)
    mean = add_up(ops.sum(x * weights, axis=axes, keepdims=True)) / count
    variance = add_up(ops.sum(ops.square(x - mean) * weights, axis=axes, keepdims=True)) / count
    return (x - mean) * ops.rsqrt(variance + EPSILON)


def _as_it_is(x):
    return x


def average_targets(features, norm, normalize_average=False, padding_mask=None, add_up=None):
    """Averages the teacher's blocks into one regression target (arXiv 2202.03555, section 3.3).

    Each block is normalised before the average, without learned weights, so a loud block counts
    no more than a quiet one. Computed in float32 whatever the inputs are; no gradient flows out.

    Args:
        features: list of K tensors `[B, T, D]`. The last K blocks, first of them first.
        norm: `"layer"` (over D), `"instance"` (over T, per example and channel), `"batch"` (over B
            and T, per channel) or `None`.
        normalize_average: bool. Normalise the average once more (vision), in the same way, or over
            D where `norm` is `None`. Defaults to `False`.
        padding_mask: optional `[B, T]`, 1 = real. Padding stays out of the statistics over T.
        add_up: as in `normalize`.

    Returns:
        float32 `[B, T, D]`.

    Raises:
        ValueError: for another norm, or an empty list.

    Example:
    >>> blocks = [np.array([[[1.0, 3.0]]]), np.array([[[10.0, 40.0]]])]  # K=2 of [1, 1, 2]
    >>> average_targets(blocks, norm="layer").numpy().round(3)
    array([[[-1.,  1.]]], dtype=float32)
    """
    if not features:
        raise ValueError("average_targets needs the features of at least one block. Received: []")
    total = 0.0
    for feature in features:
        feature = ops.cast(ops.stop_gradient(feature), "float32")
        total = total + normalize(feature, norm, padding_mask, add_up)
    average = total / len(features)
    if normalize_average:
        average = normalize(average, norm or "layer", padding_mask, add_up)
    return average


def regression_loss(predictions, targets, beta=0.0, scale=None):
    """The regression loss of each position (arXiv 2202.03555, section 3.4).

    Smooth L1, `0.5 e^2 / beta` where `|e| <= beta` and `|e| - 0.5 beta` elsewhere; plain squared
    error `e^2` for `beta = 0`. Summed over channels, times `scale`.

    Args:
        predictions: float32 `[..., D]`.
        targets: float32 `[..., D]`.
        beta: float, at least 0.
        scale: optional float. Defaults to `1 / sqrt(D)`.

    Returns:
        float32 `[...]`.
    """
    error = predictions - targets
    if beta == 0:
        loss = ops.square(error)
    else:
        size = ops.abs(error)
        loss = ops.where(size <= beta, 0.5 * ops.square(error) / beta, size - 0.5 * beta)
    scale = predictions.shape[-1] ** -0.5 if scale is None else scale
    return ops.sum(loss, axis=-1) * scale


def moment_sums(x, weights):
    """Sums from which `deviation` computes a spread; they add up over batches and replicas.

    Args:
        x: `[B, M, D]`.
        weights: `[B, M]`, 1 = counts, 0 = does not.

    Returns:
        float32 `[3, D]`: count, sum and sum of squares per channel.
    """
    weights = ops.cast(weights, "float32")[..., None]
    x = ops.cast(ops.stop_gradient(x), "float32")
    count = ops.broadcast_to(ops.sum(weights), (x.shape[-1],))
    return ops.stack(
        [count, ops.sum(x * weights, axis=(0, 1)), ops.sum(ops.square(x) * weights, axis=(0, 1))]
    )


def deviation(sums):
    """Mean over channels of the standard deviation over all counted positions.

    The collapse statistic of the reference implementation (`compute_var`): unbiased, with 1e-6
    under the root.

    Args:
        sums: float32 `[3, D]`, from `moment_sums`, added up over the global batch.

    Returns:
        float32 scalar.
    """
    count, total, squares = ops.unstack(sums, 3)
    variance = (squares - ops.square(total) / ops.maximum(count, 1.0)) / ops.maximum(
        count - 1.0, 1.0
    )
    return ops.mean(ops.sqrt(ops.maximum(variance, 0.0) + 1e-6))


def sequence_deviation_sums(features, padding_mask=None):
    """Sums for the standard deviation of the frontend's features along the sequence.

    A frontend can collapse to a constant while the loss and both deviations of targets and
    predictions look healthy (fairseq issue 5239): here it shows. An example's number is the mean
    over channels of the standard deviation over its real positions.

    Args:
        features: `[B, T, D]`, of any float dtype.
        padding_mask: optional `[B, T]`, 1 = real.

    Returns:
        float32 `[2]`: the sum over the examples with at least two real positions, and how many
        those are. Both add up over batches and replicas; their ratio is the mean.
    """
    x = ops.cast(ops.stop_gradient(features), "float32")
    weights = ops.ones_like(x[..., :1])
    if padding_mask is not None:
        weights = ops.cast(padding_mask, "float32")[..., None]  # [B, T, 1]
    length = ops.sum(weights, axis=1, keepdims=True)  # [B, 1, 1]
    divisor = ops.maximum(length, 1.0)
    mean = ops.sum(x * weights, axis=1, keepdims=True) / divisor
    variance = ops.sum(ops.square(x - mean) * weights, axis=1, keepdims=True) / divisor
    deviations = ops.mean(ops.sqrt(variance), axis=(1, 2))  # [B]
    counts = ops.cast(length[:, 0, 0] >= 2, "float32")
    return ops.stack([ops.sum(deviations * counts), ops.sum(counts)])
