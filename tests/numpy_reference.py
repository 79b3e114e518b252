"""The encoder and the learning rule once more, in float64 NumPy, written from the papers.

Slow and plain on purpose: explicit loops over heads and patches, no code shared with the package.
Weights are read off the layers; `overrides` (variable id -> array) replaces some of them, which is
what finite differences need.
"""

import math

import numpy as np


class Weights:
    """Looks up a variable's value in float64."""

    def __init__(self, overrides=None):
        self.overrides = overrides or {}

    def __call__(self, variable):
        if id(variable) in self.overrides:
            return self.overrides[id(variable)]
        return np.asarray(variable.numpy(), "float64")


def randomize(variables, seed=0, scale=0.3):
    """Gives every weight a random value: no zero or one is left to hide a mistake."""
    rng = np.random.default_rng(seed)
    for variable in variables:
        offset = 1.0 if variable.name == "gamma" else 0.0
        variable.assign(rng.normal(offset, scale, variable.shape))


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def dense(layer, x, w):
    return x @ w(layer.kernel) + w(layer.bias)


def layer_norm(layer, x, w):
    mean = x.mean(axis=-1, keepdims=True)
    variance = x.var(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + layer.epsilon) * w(layer.gamma) + w(layer.beta)


def relative_bias(layer, w):
    """The bias `[heads, T, T]`, cell by cell from the definition (BEiT's appendix)."""
    (height, width), table = layer.grid, w(layer.table)
    offsets = (2 * height - 1) * (2 * width - 1)
    bias = np.empty((layer.num_heads, 1 + height * width, 1 + height * width))
    bias[:, 0, 1:] = table[offsets][:, None]  # class token to patch
    bias[:, 1:, 0] = table[offsets + 1][:, None]  # patch to class token
    bias[:, 0, 0] = table[offsets + 2]
    for query in range(height * width):
        for key in range(height * width):
            down = query // width - key // width
            right = query % width - key % width
            row = (down + height - 1) * (2 * width - 1) + right + width - 1
            bias[:, 1 + query, 1 + key] = table[row]
    return bias


def attention(layer, x, logit_bias, w):
    dim = x.shape[-1]
    size = dim // layer.num_heads
    query, key, value = np.split(x @ w(layer.qkv_kernel), 3, axis=-1)
    query, value = query + w(layer.query_bias), value + w(layer.value_bias)
    if layer.key_bias:
        key = key + w(layer.key_bias_weight)
    heads = []
    for head in range(layer.num_heads):
        part = slice(head * size, (head + 1) * size)
        logits = query[..., part] @ key[..., part].transpose(0, 2, 1) / math.sqrt(size)
        logits = logits + logit_bias[:, head]
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        heads.append(weights / weights.sum(axis=-1, keepdims=True) @ value[..., part])
    return dense(layer.output_dense, np.concatenate(heads, axis=-1), w)


def block(layer, x, logit_bias, w):
    """Returns the block's output and its feed-forward output."""
    if layer.relative_position_bias is not None:
        logit_bias = logit_bias + relative_bias(layer.relative_position_bias, w)
    scales = [
        1.0 if scale is None else w(scale.gamma)
        for scale in (layer.attention_scale, layer.output_scale)
    ]

    def feed_forward(x):
        return dense(layer.output_dense, gelu(dense(layer.intermediate_dense, x, w)), w)

    if layer.normalize_first:
        normalized = layer_norm(layer.attention_norm, x, w)
        x = x + scales[0] * attention(layer.attention, normalized, logit_bias, w)
        ffn = feed_forward(layer_norm(layer.output_norm, x, w))
        return x + scales[1] * ffn, ffn
    x = x + scales[0] * attention(layer.attention, x, logit_bias, w)
    x = layer_norm(layer.attention_norm, x, w)
    ffn = feed_forward(x)
    return layer_norm(layer.output_norm, x + scales[1] * ffn, w), ffn


def encode(encoder, x, padding_mask=None, w=None):
    """Returns the output, the blocks' outputs and their feed-forward outputs."""
    w = w or Weights()
    x = np.asarray(x, "float64")
    logit_bias = np.zeros((x.shape[0], encoder.num_heads, x.shape[1], x.shape[1]))
    if encoder.shared_bias is not None:
        logit_bias = logit_bias + relative_bias(encoder.shared_bias, w)
    if padding_mask is not None:
        logit_bias[np.broadcast_to(~padding_mask[:, None, None, :], logit_bias.shape)] = -np.inf
    blocks, ffns = [], []
    for layer in encoder.blocks:
        x, ffn = block(layer, x, logit_bias, w)
        blocks.append(x)
        ffns.append(ffn)
    return x, blocks, ffns


def normalize(x, norm, padding_mask=None):
    """Normalises targets by explicit loops over what shares its statistics."""
    x, out = np.asarray(x, "float64"), np.empty(x.shape)
    examples, length, dim = x.shape
    real = np.ones((examples, length), bool) if padding_mask is None else padding_mask
    if norm is None:
        return x
    if norm == "layer":
        for b in range(examples):
            for t in range(length):
                out[b, t] = _standardize(x[b, t], x[b, t])
    for c in range(dim):
        if norm == "instance":
            for b in range(examples):
                out[b, :, c] = _standardize(x[b, :, c], x[b, real[b], c])
        if norm == "batch":
            out[:, :, c] = _standardize(x[:, :, c], x[:, :, c][real])
    return out


def _standardize(values, population):
    return (values - np.mean(population)) / math.sqrt(np.var(population) + 1e-5)


def average_targets(features, norm, normalize_average, padding_mask=None):
    average = sum(normalize(x, norm, padding_mask) for x in features) / len(features)
    return normalize(average, norm or "layer", padding_mask) if normalize_average else average


def smooth_l1(error, beta):
    """One number's loss."""
    if beta == 0:
        return error**2
    return 0.5 * error**2 / beta if abs(error) <= beta else abs(error) - 0.5 * beta


def masked_loss(predictions, targets, mask, beta, scale=None):
    """The mean over all masked positions of the summed, scaled loss."""
    scale = 1 / math.sqrt(predictions.shape[-1]) if scale is None else scale
    losses = [
        scale * sum(smooth_l1(e, beta) for e in predictions[b, t] - targets[b, t])
        for b, t in zip(*np.nonzero(mask), strict=True)
    ]
    return sum(losses) / len(losses)


def deviation(values):
    """The collapse statistic over `[positions, D]` (fairseq's `compute_var`)."""
    return np.mean(np.sqrt(np.asarray(values, "float64").var(axis=0, ddof=1) + 1e-6))


def vision_embed(backbone, images, mask=None, w=None):
    """What goes into a vision backbone's encoder: `[B, 1 + T, D]`."""
    w = w or Weights()
    size, layer = backbone.patch_size, backbone.frontend.patch_embedding
    height, width = images.shape[1] // size, images.shape[2] // size
    patches = np.empty((len(images), height * width, layer.units))
    for row in range(height):
        for column in range(width):
            pixels = images[:, row * size : (row + 1) * size, column * size : (column + 1) * size]
            pixels = np.asarray(pixels, "float64").reshape(len(images), -1)
            patches[:, row * width + column] = dense(layer, pixels, w)
    if mask is not None:
        patches[mask] = w(backbone.mask_token.embedding)
    token = np.broadcast_to(w(backbone.positions.class_token), (len(images), 1, layer.units))
    x = np.concatenate([token, patches], axis=1)
    if backbone.positions.position_embedding is not None:
        x = x + w(backbone.positions.position_embedding)
    return x


def vision_predictions(model, images, mask, w=None):
    """A `Data2Vec`'s predictions on a vision backbone, `[B, T, D]`."""
    w, student = w or Weights(), model.student
    hidden, _, _ = encode(student.encoder, vision_embed(student, images, mask, w), w=w)
    return predict(model, hidden[:, 1:], w)


def predict(model, hidden, w=None):
    w = w or Weights()
    if model.student.final_norm is not None:
        hidden = layer_norm(model.student.final_norm, hidden, w)
    *inner, last = model.head.layers
    for layer in inner:
        hidden = gelu(dense(layer, hidden, w))
    return dense(last, hidden, w)


def vision_targets(model, images):
    """A `Data2Vec`'s targets on a vision backbone, `[B, T, D]`: from the unmasked images."""
    _, blocks, ffns = encode(model.teacher, vision_embed(model.student, images))
    features = ffns if model.target_features == "ffn" else blocks
    features = [x[:, 1:] for x in features[len(features) - model.num_target_layers :]]
    return average_targets(features, model.target_norm, model.normalize_average)
