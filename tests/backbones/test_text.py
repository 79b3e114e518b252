import importlib.util
import os
import subprocess
import sys

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

import d2v_tf
from tests import numpy_reference
from tests.numpy_reference import randomize

# Nothing is a default or a zero, and heads and blocks differ.
ARGUMENTS = {
    "vocabulary_size": 11,
    "max_sequence_length": 7,
    "num_layers": 3,
    "hidden_dim": 8,
    "num_heads": 4,
    "intermediate_dim": 12,
    "dropout": 0.2,
    "attention_dropout": 0.3,
    "layer_norm_epsilon": 1e-3,
    "activation": "relu",
    "padding_token_id": 3,
    "token_stddev": 0.3,
    "position_initializer": "sinusoidal",
    "position_stddev": 0.2,
}
TOKENS = np.array([[0, 8, 9, 4, 10, 2], [0, 7, 2, 1, 1, 1]])
MASK = TOKENS != 1


def make_backbone(seed=0, **kwargs):
    backbone = d2v_tf.Data2VecTextBackbone(
        **{
            "vocabulary_size": 11,
            "max_sequence_length": 7,
            "num_layers": 2,
            "hidden_dim": 8,
            "num_heads": 2,
            "intermediate_dim": 12,
            **kwargs,
        }
    )
    randomize(backbone.weights, seed)
    return backbone


def make_inputs():
    return {"token_ids": TOKENS, "padding_mask": MASK}


def numpy_embed(backbone, tokens):
    w = numpy_reference.Weights()
    words = w(backbone.frontend.token_embedding.embeddings)
    table = w(backbone.positions.position_embedding)
    x = np.empty((*tokens.shape, words.shape[1]))
    for row, line in enumerate(tokens):
        seen = 0
        for column, token in enumerate(line):
            seen += token != backbone.padding_token_id
            x[row, column] = words[token]
            x[row, column] += table[seen if token != backbone.padding_token_id else 0]
    return numpy_reference.layer_norm(backbone.positions.norm, x, w)


def test_output_and_features_equal_numpy():
    backbone, inputs = make_backbone(), make_inputs()
    embedded = numpy_embed(backbone, TOKENS)
    output, blocks, ffns = numpy_reference.encode(backbone.encoder, embedded, MASK)
    assert backbone.output_shape == (None, None, 8)
    assert_allclose(backbone(inputs), output, atol=1e-4)
    assert_allclose(backbone.predict(inputs, verbose=0), output, atol=1e-4)
    for kind, expected in [("block", blocks), ("ffn", ffns)]:
        for got, numbers in zip(backbone.block_features(inputs, kind), expected, strict=True):
            assert_allclose(got, numbers, atol=1e-4)


@pytest.mark.parametrize("padding", [1, 3])
def test_a_padding_mask_left_out_is_made_from_the_tokens(padding):
    backbone = make_backbone(padding_token_id=padding)
    tokens = np.where(MASK, TOKENS, padding)
    expected = backbone({"token_ids": tokens, "padding_mask": tokens != padding})
    assert_array_equal(backbone({"token_ids": tokens}), expected)
    assert_array_equal(backbone({"token_ids": tokens, "padding_mask": None}), expected)
    assert_allclose(backbone.predict({"token_ids": tokens}, verbose=0), expected, atol=1e-6)
    traced = tf.function(lambda x: backbone({"token_ids": x}))(tf.constant(tokens, tf.int32))
    assert_allclose(traced, expected, atol=1e-6)
    last = backbone.block_features({"token_ids": tokens}, "block")[-1]
    assert_allclose(last, expected, atol=1e-6)
    symbolic = keras.Input((6,), dtype="int32")
    model = keras.Model(symbolic, backbone({"token_ids": symbolic}))
    assert_allclose(model(tokens), expected, atol=1e-6)


def test_padding_changes_nothing():
    backbone = make_backbone()
    alone = backbone({"token_ids": TOKENS[1:, :3]})
    assert_allclose(backbone(make_inputs())[1:, :3], alone, atol=1e-5)
    in_front = np.array([[1, 1, *TOKENS[1, :3]]])
    assert_allclose(backbone({"token_ids": in_front})[:, 2:], alone, atol=1e-5)
    poisoned = np.where(MASK, TOKENS, 9)
    got = backbone({"token_ids": poisoned, "padding_mask": MASK})
    assert_allclose(got[1:, :3], alone, atol=1e-5)


def test_features_are_deterministic_unless_training():
    backbone, inputs = make_backbone(dropout=0.5), make_inputs()
    first = backbone.block_features(inputs)[-1]
    assert_array_equal(backbone.block_features(inputs)[-1], first)
    assert np.abs(backbone.block_features(inputs, training=True)[-1] - first).max() > 1e-3


def test_the_embeddings_have_dropout_of_their_own():
    backbone, inputs = make_backbone(dropout=0.5), make_inputs()
    embedded = backbone.frontend(inputs)
    got = np.asarray(backbone.positions(*embedded.values(), training=True))
    kept = np.asarray(backbone.positions(*embedded.values()))
    assert ((got == 0) | np.isclose(got, 2 * kept, atol=1e-5)).all()
    assert 0.2 < (got == 0).mean() < 0.8


def test_config_round_trip():
    backbone = d2v_tf.Data2VecTextBackbone(**ARGUMENTS)
    config = backbone.get_config()
    assert {name: config[name] for name in ARGUMENTS} == ARGUMENTS
    for name in ARGUMENTS:
        assert getattr(backbone, name) == ARGUMENTS[name]
    copy = d2v_tf.Data2VecTextBackbone.from_config(config)
    assert copy.get_config() == config
    copy.set_weights(backbone.get_weights())
    assert_array_equal(copy(make_inputs()), backbone(make_inputs()))
    for part in (backbone.frontend, backbone.positions):
        assert type(part).from_config(part.get_config()).get_config() == part.get_config()


@pytest.mark.parametrize("loader", [d2v_tf.Data2VecTextBackbone, keras_hub.models.Backbone])
def test_preset_round_trip(loader, tmp_path):
    backbone = make_backbone()
    backbone.save_to_preset(str(tmp_path))
    loaded = loader.from_preset(str(tmp_path))
    assert type(loaded) is d2v_tf.Data2VecTextBackbone
    assert loaded.get_config() == backbone.get_config()
    assert_array_equal(loaded(make_inputs()), backbone(make_inputs()))


def test_keras_file_round_trip(tmp_path):
    backbone = make_backbone()
    backbone.save(tmp_path / "backbone.keras")
    loaded = keras.models.load_model(tmp_path / "backbone.keras")
    assert_array_equal(loaded(make_inputs()), backbone(make_inputs()))
    assert_array_equal(loaded({"token_ids": TOKENS}), backbone(make_inputs()))


def test_half_precision_is_near_float32_and_keeps_float32_weights(tmp_path):
    exact, half = make_backbone(), make_backbone(dtype="mixed_bfloat16")
    inputs = make_inputs()
    assert {v.dtype for v in half.weights} == {"float32"}
    assert keras.backend.standardize_dtype(half(inputs).dtype) == "bfloat16"
    assert_allclose(np.asarray(half(inputs), "float32"), exact(inputs), atol=0.15)
    half.save_to_preset(str(tmp_path))
    loaded = keras_hub.models.Backbone.from_preset(str(tmp_path), dtype="mixed_bfloat16")
    assert loaded.encoder.blocks[0].compute_dtype == "bfloat16"
    assert_array_equal(np.asarray(loaded(inputs), "float32"), np.asarray(half(inputs), "float32"))


def test_positions_do_not_suffer_from_half_precision():
    """bfloat16 cannot tell 257 from 258; token ids and positions must stay integers."""
    exact = make_backbone(vocabulary_size=400, max_sequence_length=300)
    half = make_backbone(vocabulary_size=400, max_sequence_length=300, dtype="mixed_bfloat16")
    tokens = {"token_ids": np.arange(2, 302)[None]}
    embedded = [model.frontend(tokens) for model in (exact, half)]
    wanted, got = (
        np.asarray(model.positions(*e.values()), "float32")
        for model, e in zip((exact, half), embedded, strict=True)
    )
    assert_allclose(got, wanted, atol=0.1)


def test_it_trains_as_part_of_an_ordinary_model():
    backbone = make_backbone()
    model = keras.Model(backbone.input, keras.layers.Dense(2)(backbone.output[:, 0]))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = {v.path: v.numpy() for v in backbone.trainable_variables}
    model.fit(make_inputs(), np.array([0, 1]), verbose=0)
    same = [v.path for v in backbone.weights if np.array_equal(v, before[v.path])]
    # A bias of the keys shifts all logits of a query alike, which softmax ignores.
    assert all("key_bias" in path for path in same)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 3}, "num_heads must divide hidden_dim. Received: hidden_dim=8, num_heads=3"),
        ({"padding_token_id": 11}, "padding_token_id=11, vocabulary_size=11"),
    ],
)
def test_errors_name_the_argument_and_the_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_backbone(**arguments)


def test_a_text_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="8 tokens, max_sequence_length=7"):
        make_backbone()({"token_ids": np.zeros((1, 8), "int32")})


@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="PyTorch is not installed: pip install torch",
)
def test_it_gives_the_same_numbers_on_keras_torch_backend(tmp_path):
    backbone = make_backbone()
    backbone.save_to_preset(str(tmp_path))
    np.save(tmp_path / "tokens.npy", TOKENS)
    program = """
import sys
import keras, keras_hub, numpy as np
import d2v_tf

assert keras.backend.backend() == "torch"
folder = sys.argv[1]
backbone = d2v_tf.Data2VecTextBackbone.from_preset(folder)
inputs = {"token_ids": np.load(folder + "/tokens.npy")}
features = [backbone(inputs), *backbone.block_features(inputs, "ffn")]
np.save(folder + "/features.npy", [keras.ops.convert_to_numpy(x) for x in features])
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env={**os.environ, "KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    expected = [backbone(make_inputs()), *backbone.block_features(make_inputs(), "ffn")]
    assert_allclose(np.load(tmp_path / "features.npy"), np.stack(expected), atol=1e-5)


def new_backbone(**kwargs):
    """One as it starts, large enough for statistics."""
    keras.utils.set_random_seed(0)
    return d2v_tf.Data2VecTextBackbone(
        vocabulary_size=500,
        max_sequence_length=64,
        num_layers=1,
        hidden_dim=32,
        num_heads=2,
        intermediate_dim=8,
        **kwargs,
    )


def test_embeddings_start_as_asked_for():
    backbone = new_backbone(
        token_stddev=0.3, position_initializer="sinusoidal", position_stddev=0.05
    )
    tokens = backbone.frontend.token_embedding.embeddings.numpy()
    assert_allclose(tokens.std(), 0.88 * 0.3, rtol=0.02)  # Keras cuts a normal off at 2 deviations
    expected = np.empty((65, 32))
    for n in range(65):
        for i in range(16):
            angle = n / 1000 ** (2 * i / 32)
            expected[n, i], expected[n, 16 + i] = np.sin(angle), np.cos(angle)
    expected -= expected.mean(axis=0)
    expected *= 0.05 / expected.std()
    assert_allclose(backbone.positions.position_embedding.numpy(), expected, atol=1e-6)


def test_embeddings_start_as_robertas_unless_told_otherwise():
    backbone = new_backbone()
    for table in (backbone.frontend.token_embedding.embeddings, backbone.positions.weights[0]):
        assert_allclose(table.numpy().std(), 0.88 * 0.02, rtol=0.05)


def test_an_unknown_position_initializer_is_refused():
    with pytest.raises(ValueError, match="position_initializer must be one of.*'sine'"):
        make_backbone(position_initializer="sine")
