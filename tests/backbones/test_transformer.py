import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

from d2v_tf.backbones.relative_position import relative_position_index
from d2v_tf.backbones.transformer import TransformerEncoder
from tests import numpy_reference
from tests.numpy_reference import randomize

GRID = (2, 3)


def make_encoder(seed=0, dtype=None, **kwargs):
    """An encoder of 7 tokens and width 8 whose weights are random throughout."""
    kwargs = {"num_layers": 3, "num_heads": 2, "intermediate_dim": 12, **kwargs}
    encoder = TransformerEncoder(dtype=dtype, **kwargs)
    encoder.build((None, 7, 8))
    randomize(encoder.weights, seed)
    return encoder


def tokens(number=2, seed=0):
    return np.random.default_rng(seed).normal(size=(number, 7, 8)).astype("float32")


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"layer_scale_init_value": 0.1},
        {"key_bias": False, "num_heads": 4, "layer_norm_epsilon": 1e-2},
        {"relative_position_bias": "per_block", "relative_position_grid": GRID},
        {"relative_position_bias": "shared", "relative_position_grid": GRID},
        {"num_layers": 1, "num_heads": 1, "intermediate_dim": 5},
    ],
)
@pytest.mark.parametrize("normalize_first", [True, False])
def test_encoder_equals_numpy(normalize_first, arguments, padded):
    encoder = make_encoder(normalize_first=normalize_first, **arguments)
    x = tokens()
    padding_mask = np.arange(7) < np.array([[7], [4]]) if padded else None
    output, blocks, ffns = numpy_reference.encode(encoder, x, padding_mask)
    real = np.ones((2, 7), bool) if padding_mask is None else padding_mask
    assert_allclose(np.asarray(encoder(x, padding_mask))[real], output[real], atol=1e-4)
    for kind, expected in [("block", blocks), ("ffn", ffns)]:
        last, features = encoder(x, padding_mask, features=kind)
        assert_allclose(np.asarray(last)[real], output[real], atol=1e-4)
        assert len(features) == len(expected) == encoder.num_layers
        for got, numbers in zip(features, expected, strict=True):
            assert_allclose(np.asarray(got)[real], numbers[real], atol=1e-4)


@pytest.mark.parametrize("normalize_first", [True, False])
@pytest.mark.parametrize("layer_drop", [0.0, 0.999])
def test_positions_kept_of_the_last_block_are_those_of_all(normalize_first, layer_drop):
    encoder = make_encoder(normalize_first=normalize_first, layer_drop=layer_drop)
    positions = [[6, 0, 2], [1, 5, 3]]

    def keep(x):
        return tf.gather(x, positions, batch_dims=1)

    x = tf.constant(tokens())
    training = layer_drop > 0  # all blocks are left out, and the input is kept of
    whole, blocks = encoder(x, training=training, features="block")
    kept, some = encoder(x, training=training, features="block", keep=keep)
    assert_allclose(kept, keep(whole), atol=1e-5)
    for got, expected in zip(some, [*blocks[:-1], keep(blocks[-1])], strict=True):
        assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("normalize_first", [True, False])
def test_padding_is_not_attended_to(normalize_first, dtype):
    encoder = make_encoder(normalize_first=normalize_first, dtype=dtype)
    x = tokens()
    clean = np.asarray(encoder(x[:, :4]), "float32")
    x[:, 4:] = 1e4  # poison
    for mask_dtype in ("bool", "int32", "float32"):
        padding_mask = np.broadcast_to(np.arange(7) < 4, (2, 7)).astype(mask_dtype)
        got = np.asarray(encoder(x, padding_mask)[:, :4], "float32")
        # The same numbers, from matrix products of another shape.
        assert_allclose(got, clean, atol=1e-5 if dtype == "float32" else 0.05)


def test_an_example_of_padding_only_stays_finite():
    got = make_encoder()(tokens(), np.array([[True] * 7, [False] * 7]))
    assert np.isfinite(got).all()


def test_a_full_padding_mask_changes_nothing():
    encoder = make_encoder(relative_position_bias="shared", relative_position_grid=GRID)
    assert_allclose(encoder(tokens(), np.ones((2, 7))), encoder(tokens()), atol=1e-6)


def test_pre_norm_blocks_differ_by_their_scaled_branches():
    """A block's output less its feed-forward branch is what the attention left."""
    encoder = make_encoder(normalize_first=True, layer_scale_init_value=0.1)
    x = tokens()
    output, blocks = encoder(x, features="block")
    _, ffns = encoder(x, features="ffn")
    assert_array_equal(blocks[-1], output)
    for i, block in enumerate(encoder.blocks):
        before = x if i == 0 else blocks[i - 1]
        middle = blocks[i] - block.output_scale(ffns[i])
        attended = block.attention(block.attention_norm(before))
        assert_allclose(middle - before, block.attention_scale(attended), atol=1e-5)


def test_half_precision_is_near_float32_and_its_softmax_is_float32():
    arguments = {"relative_position_bias": "per_block", "relative_position_grid": GRID}
    exact = make_encoder(**arguments)
    half = make_encoder(dtype="mixed_bfloat16", **arguments)
    assert {v.dtype for v in half.weights} == {"float32"}
    x = tokens()
    got = half(x)
    assert keras.backend.standardize_dtype(got.dtype) == "bfloat16"
    assert_allclose(np.asarray(got, "float32"), exact(x), atol=0.1)
    assert keras.backend.standardize_dtype(half.blocks[0].relative_position_bias.bias().dtype) == (
        "float32"
    )


@pytest.mark.parametrize("relative_position_bias", ["per_block", "shared"])
def test_the_bias_is_not_rounded_to_half_precision(relative_position_bias):
    """2000 and 2001 are one number in bfloat16; the softmax of their difference is not flat."""
    encoder = make_encoder(
        dtype="mixed_bfloat16",
        num_layers=1,
        num_heads=1,
        normalize_first=True,
        relative_position_bias=relative_position_bias,
        relative_position_grid=GRID,
    )
    (block,) = encoder.blocks
    for variable in encoder.weights:
        variable.assign(np.zeros(variable.shape))
    block.attention_norm.gamma.assign(np.ones(8))
    block.attention.output_dense.kernel.assign(np.eye(8))
    block.attention.qkv_kernel.assign(np.concatenate([np.zeros((8, 16)), np.eye(8)], axis=1))
    bias = encoder.shared_bias or block.relative_position_bias
    table = np.full(bias.table.shape, 2000.0)
    table[-3] = 2001.0  # from the class token to every patch
    bias.table.assign(table)
    x = np.broadcast_to([1.0, -1.0] * 4, (1, 7, 8)).astype("float32")
    x = np.concatenate([x[:, :1], -x[:, 1:]], axis=1)  # every patch is minus the class token
    attended = (1 - 6 * np.e) / (1 + 6 * np.e)
    got = np.asarray(encoder(x), "float32")
    assert_allclose(got[0, 0], (1 + attended) * x[0, 0], atol=0.01)


@pytest.mark.parametrize("grid", [(2, 3), (3, 2), (4, 4), (1, 5)])
def test_relative_position_index_equals_its_definition(grid):
    height, width = grid
    index = relative_position_index(height, width)
    length = 1 + height * width
    assert index.shape == (length, length)
    # Pairs share a row of the table exactly where the offset is the same.
    rows = {}
    for query in range(length):
        for key in range(length):
            if query and key:
                (r1, c1), (r2, c2) = divmod(query - 1, width), divmod(key - 1, width)
                kind = (r1 - r2, c1 - c2)
            else:
                kind = (query == 0, key == 0, "class token")
            assert rows.setdefault(kind, index[query, key]) == index[query, key]
    assert sorted(rows.values()) == list(range((2 * height - 1) * (2 * width - 1) + 3))
    # The published order: class token to patch, patch to class token, class token to itself.
    assert index[0, 1] + 2 == index[1, 0] + 1 == index[0, 0] == len(rows) - 1
    # From the last patch up and left to the first is the largest offset, back the smallest.
    assert index[length - 1, 1] == len(rows) - 4
    assert index[1, length - 1] == 0


def test_stochastic_depth_rises_linearly_with_depth():
    encoder = make_encoder(drop_path_rate=0.3)
    assert_allclose([b.stochastic_depth.rate for b in encoder.blocks], [0.0, 0.15, 0.3])
    assert make_encoder(num_layers=1, drop_path_rate=0.3).blocks[0].stochastic_depth.rate == 0.0


def test_stochastic_depth_does_nothing_in_inference():
    assert_array_equal(make_encoder(drop_path_rate=0.9)(tokens()), make_encoder()(tokens()))


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_stochastic_depth_drops_whole_examples_and_keeps_the_expectation(jit_compile, dtype):
    layer = make_encoder(num_layers=2, drop_path_rate=0.25, dtype=dtype).blocks[1].stochastic_depth

    @tf.function(jit_compile=jit_compile)
    def drop(x):
        return layer(x, training=True)

    x = tf.ones((4000, 3, 2), layer.compute_dtype)
    first, second = (np.asarray(drop(x), "float32").reshape(4000, -1) for _ in range(2))
    assert (first == first[:, :1]).all()  # an example is dropped whole or not at all
    assert (first != second).any()  # and not the same ones every time
    assert_allclose(np.unique(first), [0.0, 1 / 0.75], rtol=1e-2)
    # 4 standard errors of the mean of a scaled Bernoulli variable.
    assert_allclose(first.mean(), 1.0, atol=4 * np.sqrt(0.25 / 0.75 / 4000))


def test_stochastic_depth_keeps_the_residual_stream():
    """What it drops is the branch: near rate 1 the last pre-norm block is the identity."""
    encoder = make_encoder(num_layers=2, drop_path_rate=0.999999, normalize_first=True)
    x = tokens()
    _, blocks = encoder(x, training=True, features="block")
    assert_array_equal(blocks[1], blocks[0])
    assert np.abs(blocks[0] - x).max() > 1e-2  # the first block's rate is 0


def test_dropout_is_active_in_training_only():
    x = tokens()
    for name in ("dropout", "attention_dropout", "activation_dropout"):
        encoder = make_encoder(**{name: 0.5})
        assert_array_equal(encoder(x), make_encoder()(x))
        assert np.abs(encoder(x, training=True) - encoder(x)).max() > 1e-3


def test_layer_drop_does_nothing_in_inference():
    assert_array_equal(make_encoder(layer_drop=0.9)(tokens()), make_encoder()(tokens()))


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("normalize_first", [True, False])
def test_layer_drop_leaves_out_whole_blocks_for_all_examples(normalize_first, jit_compile):
    """Each block gives its input or what it gives in inference, unscaled; each has its own draw."""
    rate, number = 0.3, 400
    encoder = make_encoder(layer_drop=rate, normalize_first=normalize_first)

    @tf.function(jit_compile=jit_compile)
    def run(x):
        output, blocks = encoder(x, training=True, features="block")
        return (
            output,
            blocks,
            [block(before)[0] for block, before in zip(encoder.blocks, [x, *blocks], strict=False)],
        )

    x, dropped = tf.constant(tokens()), []
    for _ in range(number):
        output, blocks, computed = run(x)
        assert_array_equal(output, blocks[-1])
        row = []
        for before, after, full in zip([x, *blocks], blocks, computed, strict=False):
            row.append(np.array_equal(after, before))
            if not row[-1]:
                assert_allclose(after, full, atol=1e-5)
        dropped.append(row)
    # 4 standard errors; all 8 combinations occur.
    error = 4 * np.sqrt(rate * (1 - rate) / number)
    assert_allclose(np.mean(dropped, axis=0), [rate] * 3, atol=error)
    assert len({tuple(row) for row in dropped}) == 8


def test_a_dropped_block_gets_no_gradient():
    encoder = make_encoder(layer_drop=0.999999)
    x = tf.constant(tokens())
    with tf.GradientTape() as tape:
        tape.watch(x)
        output = encoder(x, training=True)
        loss = tf.reduce_sum(tf.square(output))
    gradients = tape.gradient(loss, [x, *(v.value for v in encoder.trainable_variables)])
    assert_array_equal(output, x)
    assert_allclose(gradients[0], 2 * x)
    for gradient in gradients[1:]:
        assert_array_equal(gradient, np.zeros(gradient.shape))


def test_config_round_trip():
    encoder = make_encoder(
        normalize_first=True,
        dropout=0.1,
        attention_dropout=0.2,
        activation_dropout=0.4,
        drop_path_rate=0.3,
        layer_drop=0.5,
        layer_scale_init_value=0.01,
        layer_norm_epsilon=1e-3,
        activation="relu",
        key_bias=False,
        relative_position_bias="shared",
        relative_position_grid=GRID,
        dtype="mixed_bfloat16",
    )
    copy = TransformerEncoder.from_config(encoder.get_config())
    assert copy.get_config() == encoder.get_config()
    assert copy.compute_dtype == "bfloat16"
    copy.build((None, 7, 8))
    for one, other in zip(copy.weights, encoder.weights, strict=True):
        assert one.shape == other.shape
        one.assign(other)
    assert_array_equal(copy(tokens()), encoder(tokens()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"relative_position_bias": "per_blok"}, "must be one of .*'per_block'.*'per_blok'"),
        ({"relative_position_bias": "shared"}, "needs relative_position_grid"),
        ({"num_heads": 3}, "num_heads must divide the width. Received: width 8, num_heads=3"),
        ({"layer_drop": 1.0}, "layer_drop must be at least 0 and below 1. Received: 1.0"),
    ],
)
def test_errors_name_the_argument_and_the_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_encoder(**arguments)


def test_an_unknown_kind_of_features_is_refused():
    with pytest.raises(ValueError, match="features must be one of .*'ffn'.*'attention'"):
        make_encoder()(tokens(), features="attention")
