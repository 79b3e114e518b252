"""Blocks that are computed twice, so that less has to be remembered in between."""

import tensorflow as tf


def rematerialized(block, x, logit_bias=None, training=None, keep=None):
    """Calls a block and keeps its input alone for the gradient, which computes the rest anew.

    The same numbers come out, gradients too: what was dropped is dropped again.

    Args:
        block: a `TransformerBlock`.
        x: `[B, T, D]`.
        logit_bias, training, keep: as the block takes them.

    Returns:
        What the block returns.
    """
    states = [v.value for v in block.non_trainable_variables if "seed_generator" in v.path]
    seeds = [tf.identity(state) for state in states]
    biases = () if logit_bias is None else (logit_bias,)

    @tf.recompute_grad
    def run(x, *biases):
        for state, seed in zip(states, seeds, strict=True):
            state.assign(seed)
        return block(x, logit_bias=biases[0] if biases else None, training=training, keep=keep)

    return run(x, *biases)
