"""What is computed twice, so that less has to be remembered in between."""

import keras
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


def rematerialized_one_by_one(function, layers, x, compiler=None):
    """Calls a function for one example after the other; its gradient computes all of it anew.

    In a graph no more than one example's work is in memory at a time. Eagerly it is an ordinary
    call.

    Args:
        function, layers, x: as `compiled_parts.one_by_one` has them.
        compiler: optional function of a function of tensors that returns it compiled.

    Returns:
        What `function` returns for all of `x`.
    """
    if tf.executing_eagerly():  # the outer tape would remember everything
        return function(x)
    variables = [weight for layer in layers for weight in layer.weights]
    dtype = layers[0].compute_dtype
    compiler = compiler or (lambda function: function)

    def of_one(weights, example):
        with keras.StatelessScope(zip(variables, weights, strict=True)):
            return function(example[None])[0]

    @compiler
    def forward(weights, x):
        return tf.map_fn(
            lambda example: of_one(weights, example),
            x,
            fn_output_signature=dtype,
            parallel_iterations=1,  # side by side they would all be in memory
        )

    @compiler
    def backward(weights, x, upstream):
        def add(number, sums, rows):
            example = x[number]
            with tf.GradientTape() as tape:
                tape.watch([weights, example])
                outputs = of_one(weights, example)
            found, row = tape.gradient(outputs, [weights, example], upstream[number])
            sums = [a + tf.cast(b, "float32") for a, b in zip(sums, found, strict=True)]
            return number + 1, sums, rows.write(number, row)

        count = tf.shape(x)[0]
        rows = tf.TensorArray(x.dtype, count, element_shape=x.shape[1:])
        zeros = [tf.zeros_like(weight, "float32") for weight in weights]
        _, sums, rows = tf.while_loop(
            lambda number, *_: number < count, add, (0, zeros, rows), parallel_iterations=1
        )
        rows = rows.stack()
        rows.set_shape(x.shape)
        return [tf.cast(a, w.dtype) for a, w in zip(sums, weights, strict=True)], rows

    @tf.custom_gradient
    def run(x, *weights):
        def gradient(upstream):
            sums, rows = backward(weights, x, upstream)
            return rows, *sums

        return forward(weights, x), gradient

    return run(x, *(tf.convert_to_tensor(variable.value) for variable in variables))
