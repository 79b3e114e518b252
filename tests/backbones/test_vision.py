import importlib.util
import os
import subprocess
import sys

import keras
import keras_hub
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import d2v_tf
from d2v_tf.backbones.backbone import MaskToken
from tests import numpy_reference
from tests.numpy_reference import randomize

# Nothing is a default or a zero, height and width differ, and so do heads and blocks.
ARGUMENTS = {
    "image_shape": (8, 12, 2),
    "patch_size": 4,
    "num_layers": 3,
    "hidden_dim": 8,
    "num_heads": 4,
    "intermediate_dim": 12,
    "dropout": 0.1,
    "attention_dropout": 0.2,
    "drop_path_rate": 0.3,
    "layer_scale_init_value": 0.5,
    "layer_norm_epsilon": 1e-3,
    "activation": "relu",
    "relative_position_bias": "shared",
    "absolute_position": True,
    "final_norm": False,
}


def make_backbone(seed=0, **kwargs):
    backbone = d2v_tf.Data2VecVisionBackbone(
        **{
            "image_shape": (8, 12, 3),
            "patch_size": 4,
            "num_layers": 2,
            "hidden_dim": 8,
            "num_heads": 2,
            "intermediate_dim": 12,
            **kwargs,
        }
    )
    randomize(backbone.weights, seed)
    return backbone


def make_images(channels=3, seed=0):
    return np.random.default_rng(seed).normal(size=(2, 8, 12, channels)).astype("float32")


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"relative_position_bias": "shared", "absolute_position": True},
        {"relative_position_bias": None, "layer_scale_init_value": None, "final_norm": False},
    ],
)
def test_output_and_features_equal_numpy(arguments):
    backbone, images = make_backbone(**arguments), make_images()
    embedded = numpy_reference.vision_embed(backbone, images)
    output, blocks, ffns = numpy_reference.encode(backbone.encoder, embedded)
    if backbone.final_norm is not None:
        output = numpy_reference.layer_norm(backbone.final_norm, output, numpy_reference.Weights())
    assert backbone.output_shape == (None, 7, 8)
    assert_allclose(backbone(images), output, atol=1e-4)
    assert_allclose(backbone.predict(images, verbose=0), output, atol=1e-4)
    for kind, expected in [("block", blocks), ("ffn", ffns)]:
        for got, numbers in zip(backbone.block_features(images, kind), expected, strict=True):
            assert_allclose(got, numbers, atol=1e-4)


def test_the_last_blocks_output_is_the_backbones_before_the_final_norm():
    backbone, images = make_backbone(), make_images()
    last = backbone.block_features(images, "block")[-1]
    assert_allclose(backbone.final_norm(last), backbone(images), atol=1e-6)
    backbone = make_backbone(final_norm=False)
    assert_array_equal(backbone.block_features(images, "block")[-1], backbone(images))


def test_features_are_deterministic_unless_training():
    backbone, images = make_backbone(dropout=0.5), make_images()
    first = backbone.block_features(images)[-1]
    assert_array_equal(backbone.block_features(images)[-1], first)
    assert np.abs(backbone.block_features(images, training=True)[-1] - first).max() > 1e-3


def test_the_mask_token_replaces_masked_features_only():
    layer = MaskToken("ones")
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    mask = np.array([[True, False, False], [False, True, True]])
    got = np.asarray(layer(x, mask))
    assert_array_equal(got[mask], 1.0)
    assert_array_equal(got[~mask], x[~mask])
    assert_array_equal(layer(x), x)


def test_config_round_trip():
    backbone = d2v_tf.Data2VecVisionBackbone(**ARGUMENTS)
    config = backbone.get_config()
    assert {name: config[name] for name in ARGUMENTS} == ARGUMENTS
    for name in ARGUMENTS.keys() - {"final_norm"}:
        assert getattr(backbone, name) == ARGUMENTS[name]
    copy = d2v_tf.Data2VecVisionBackbone.from_config(config)
    assert copy.get_config() == config
    copy.set_weights(backbone.get_weights())
    images = make_images(channels=2)
    assert_array_equal(copy(images), backbone(images))


@pytest.mark.parametrize("loader", [d2v_tf.Data2VecVisionBackbone, keras_hub.models.Backbone])
def test_preset_round_trip(loader, tmp_path):
    backbone, images = make_backbone(), make_images()
    backbone.save_to_preset(str(tmp_path))
    loaded = loader.from_preset(str(tmp_path))
    assert type(loaded) is d2v_tf.Data2VecVisionBackbone
    assert loaded.get_config() == backbone.get_config()
    assert_array_equal(loaded(images), backbone(images))


def test_keras_file_round_trip(tmp_path):
    backbone, images = make_backbone(), make_images()
    backbone.save(tmp_path / "backbone.keras")
    assert_array_equal(
        keras.models.load_model(tmp_path / "backbone.keras")(images), backbone(images)
    )


def test_half_precision_is_near_float32_and_keeps_float32_weights(tmp_path):
    exact, half = make_backbone(), make_backbone(dtype="mixed_bfloat16")
    images = make_images()
    assert {v.dtype for v in half.weights} == {"float32"}
    assert keras.backend.standardize_dtype(half(images).dtype) == "bfloat16"
    assert_allclose(np.asarray(half(images), "float32"), exact(images), atol=0.15)
    half.save_to_preset(str(tmp_path))
    # KerasHub loads a preset in the session's precision unless told otherwise.
    loaded = keras_hub.models.Backbone.from_preset(str(tmp_path), dtype="mixed_bfloat16")
    assert loaded.encoder.blocks[0].compute_dtype == "bfloat16"
    assert_array_equal(np.asarray(loaded(images), "float32"), np.asarray(half(images), "float32"))
    loaded = keras_hub.models.Backbone.from_preset(str(tmp_path))
    assert loaded.encoder.blocks[0].compute_dtype == "float32"
    assert_array_equal(loaded(images), exact(images))


def test_it_takes_any_batch_and_the_global_policy():
    keras.config.set_dtype_policy("mixed_bfloat16")
    backbone = make_backbone()
    assert backbone.encoder.blocks[0].compute_dtype == "bfloat16"
    for number in (1, 3):
        assert backbone(np.zeros((number, 8, 12, 3), "float32")).shape == (number, 7, 8)


def test_it_trains_as_part_of_an_ordinary_model():
    backbone = make_backbone()
    head = keras.layers.Dense(2)
    model = keras.Model(backbone.input, head(backbone.output[:, 0]))
    backbone.mask_token.trainable = False  # nothing is masked here
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [v.numpy() for v in backbone.trainable_variables]
    model.fit(make_images(), np.array([0, 1]), verbose=0)
    assert len(before) == len(backbone.weights) - 1
    for new, old in zip(backbone.trainable_variables, before, strict=True):
        assert (new.numpy() != old).any(), new.path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch_size": 5}, r"patch_size must divide .*image_shape=\(8, 12, 3\), patch_size=5"),
        ({"patch_size": 8}, "patch_size must divide"),
        ({"num_heads": 3}, "num_heads must divide hidden_dim. Received: hidden_dim=8, num_heads=3"),
        ({"relative_position_bias": "none"}, "must be one of .*'shared'.*'none'"),
    ],
)
def test_errors_name_the_argument_and_the_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_backbone(**arguments)


@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="PyTorch is not installed: pip install torch",
)
def test_it_gives_the_same_numbers_on_keras_torch_backend(tmp_path):
    backbone, images = make_backbone(absolute_position=True), make_images()
    backbone.save_to_preset(str(tmp_path))
    np.save(tmp_path / "images.npy", images)
    program = """
import sys
import keras, keras_hub, numpy as np
import d2v_tf

assert keras.backend.backend() == "torch"
folder = sys.argv[1]
backbone = d2v_tf.Data2VecVisionBackbone.from_preset(folder)
images = np.load(folder + "/images.npy")
features = [backbone(images), *backbone.block_features(images, "ffn")]
features += [backbone(images, training=True)]
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
    output = backbone(images)
    expected = [output, *backbone.block_features(images, "ffn"), output]
    assert_allclose(np.load(tmp_path / "features.npy"), np.stack(expected), atol=1e-5)
