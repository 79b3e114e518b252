"""What a training step has to compute, and what the machine can."""

import time

import tensorflow as tf


def step_flops(recipe, backbone, mask_shape, num_masked, whole_last=False):
    """Floating-point operations of one update: matrix products alone, a multiply-add is two.

    With B examples of T positions (T' with the class token), of which M are predicted, width D,
    feed-forward width F, and L blocks, of which the last computes its feed-forward network at M
    positions only:

        block(T, N) = 8 T D^2 + 4 T^2 D + 4 N D F        attention's four products and its two; two
        encoder(M)  = (L - 1) block(T', T') + block(T', M)
        head        = 2 M D^2, or 8 M D^2 with a hidden layer
        frontend    = 2 T P D for patches of P numbers; for waveforms 2 N_i k_i C_(i-1) C_i a
                      convolution of N_i frames, the fewest that end in T, and
                      2 T C D; nothing for tokens
        positions   = 2 T k D^2 / groups a convolution of a waveform's positions, otherwise nothing

        student     = 3 (frontend + positions + encoder(M) + head) - the frontend's first product,
                      whose input needs no gradient
        teacher     = positions + encoder(M), or encoder(T') where targets are normalized over time

    Args:
        recipe: a resolved `Recipe`.
        backbone: the `Data2VecBackbone` of that recipe.
        mask_shape: (B, T).
        num_masked: int. M, the positions that are predicted of an example.
        whole_last: bool. Count the last block at all positions, and the teacher's own patches, as
            the comparison's PyTorch computes them.

    Returns:
        int.
    """
    batch, length = mask_shape
    model, rule = recipe.model, recipe.data2vec
    dim, whole = model.hidden_dim, length + backbone.num_prefix_tokens

    def encoder(num_last):
        attention = 8 * whole * dim**2 + 4 * whole**2 * dim
        feed_forward = 4 * dim * model.intermediate_dim
        positions = (model.num_layers - 1) * whole + num_last
        return model.num_layers * attention + positions * feed_forward

    first, rest = _FRONTENDS[recipe.modality](model, length)
    positions = _position_flops(recipe, length)
    head = num_masked * dim**2 * (2 if rule.head_layers == 1 else 8)
    student = 2 * first + 3 * (
        rest + positions + encoder(whole if whole_last else num_masked) + head
    )
    picks = rule.target_norm in (None, "layer") and not whole_last
    teacher = positions + encoder(num_masked if picks else whole)
    if whole_last and recipe.modality == "vision":
        teacher += first
    return batch * (student + teacher)


def _patches(model, length):
    return 2 * length * model.patch_size**2 * model.image_shape[-1] * model.hidden_dim, 0


def _convolutions(model, length):
    products, channels = [], model.conv_dims[-1]
    layers = list(zip(model.conv_dims, model.conv_kernel_sizes, model.conv_strides, strict=True))
    frames = length  # the last layer's; each one before has what the next one sees
    for i in reversed(range(len(layers))):
        dim, kernel, stride = layers[i]
        before = layers[i - 1][0] if i else 1
        products.append(2 * frames * kernel * before * dim)
        frames = (frames - 1) * stride + kernel
    *others, first = products
    return first, sum(others) + 2 * length * channels * model.hidden_dim


_FRONTENDS = {
    "vision": _patches,
    "speech": _convolutions,
    "text": lambda model, length: (0, 0),
}


def _position_flops(recipe, length):
    if recipe.modality != "speech":
        return 0
    model = recipe.model
    one = 2 * length * model.position_conv_kernel_size * model.hidden_dim**2
    return model.position_conv_layers * one // model.position_conv_groups


def matrix_rate(precision, size=2048, repeats=5):
    """The fastest product of two square matrices, with XLA or without, in FLOP/s.

    Args:
        precision: `"float32"` or `"bfloat16"`.
        size: int. Rows and columns.
        repeats: int. The fastest of so many calls counts.
    """
    matrix = tf.ones((size, size), precision)
    best = float("inf")
    for compiled in (False, True):
        product = tf.function(lambda x: tf.matmul(x, x)[0, 0], jit_compile=compiled)
        product(matrix).numpy()
        for _ in range(repeats):
            began = time.perf_counter()
            product(matrix).numpy()
            best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
