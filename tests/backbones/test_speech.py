import importlib.util
import os
import subprocess
import sys

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from numpy.testing import assert_allclose, assert_array_equal

import d2v_tf
from d2v_tf.backbones.speech_frontend import (
    StridedConv,
    WaveformFrontend,
    feature_lengths,
    receptive_field,
)
from d2v_tf.backbones.speech_positions import ConvPositions, GroupedConv
from tests.numpy_reference import randomize

# The published stack's shape and a small one; kernels shorter than, as long as and longer than
# their strides are below.
STACKS = [
    ((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)),
    ((10, 3, 2), (5, 2, 2)),
    ((2, 4), (3, 1)),
]

# Nothing is a default or a zero.
ARGUMENTS = {
    "num_layers": 3,
    "hidden_dim": 8,
    "num_heads": 4,
    "intermediate_dim": 12,
    "conv_dims": (5, 6, 7),
    "conv_kernel_sizes": (10, 3, 2),
    "conv_strides": (5, 2, 2),
    "conv_bias": True,
    "position_conv_layers": 2,
    "position_conv_kernel_size": 4,
    "position_conv_groups": 2,
    "dropout": 0.1,
    "attention_dropout": 0.2,
    "activation_dropout": 0.3,
    "feature_dropout": 0.4,
    "layer_drop": 0.5,
    "feature_grad_mult": 0.25,
    "layer_norm_epsilon": 1e-3,
    "activation": "relu",
    "padding": "reference",
}
# 31 frames of 20 samples, 12 and the fewest that are one.
SAMPLES = np.array([640, 261, 30])
FRAMES = [31, 12, 1]
PADDING_MASK = np.arange(640) < SAMPLES[:, None]


def make_backbone(seed=0, **kwargs):
    backbone = d2v_tf.Data2VecSpeechBackbone(
        **{
            "num_layers": 2,
            "hidden_dim": 8,
            "num_heads": 2,
            "intermediate_dim": 12,
            "conv_dims": (5, 6, 7),
            "conv_kernel_sizes": (10, 3, 2),
            "conv_strides": (5, 2, 2),
            "conv_bias": True,
            "position_conv_layers": 3,
            "position_conv_kernel_size": 5,
            "position_conv_groups": 4,
            **kwargs,
        }
    )
    randomize(backbone.weights, seed)
    return backbone


def make_waveform(seed=0):
    return np.random.default_rng(seed).normal(size=(3, 640)).astype("float32")


def make_inputs(seed=0, dtype="bool"):
    return {"waveform": make_waveform(seed), "padding_mask": PADDING_MASK.astype(dtype)}


@pytest.mark.parametrize(("kernel_sizes", "strides"), STACKS)
def test_lengths_count_the_windows_that_fit(kernel_sizes, strides):
    expected = []
    for length in range(1000):
        for kernel_size, stride in zip(kernel_sizes, strides, strict=True):
            length = len(range(0, length - kernel_size + 1, stride))
        expected.append(length)
    assert [feature_lengths(n, kernel_sizes, strides) for n in range(1000)] == expected
    assert_array_equal(feature_lengths(tf.range(1000), kernel_sizes, strides), expected)
    assert expected.index(1) == receptive_field(kernel_sizes, strides)


def test_the_published_stack_makes_50_frames_a_second_of_400_samples():
    backbone = make_backbone(
        conv_dims=[2] * 7,
        conv_kernel_sizes=(10, 3, 3, 3, 3, 2, 2),
        conv_strides=(5, 2, 2, 2, 2, 2, 2),
    )
    assert [backbone.feature_lengths(n) for n in (399, 400, 719, 720)] == [0, 1, 1, 2]
    assert backbone.feature_lengths(160_000) == 499
    assert_array_equal(backbone.feature_lengths(np.array([160_000, 16_000, 0])), [499, 49, 0])


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(
    ("kernel_size", "stride", "length", "channels"),
    [(10, 5, 43, 1), (3, 2, 17, 4), (3, 2, 18, 4), (2, 2, 9, 4), (2, 3, 20, 3), (7, 3, 30, 2)],
)
def test_strided_convolution_equals_keras(kernel_size, stride, length, channels, jit_compile):
    """Outputs and gradients, as one matrix product and as a convolution."""
    layer = StridedConv(6, kernel_size, stride, use_bias=True)
    layer.build((None, None, channels))
    randomize(layer.weights)
    x = tf.constant(np.random.default_rng(0).normal(size=(2, length, channels)).astype("float32"))

    def convolution(x):
        return ops.conv(x, layer.kernel, strides=stride, padding="valid") + layer.bias

    assert_same_function(layer, convolution, x, layer.weights, jit_compile)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(("kernel_size", "groups"), [(5, 4), (4, 2), (1, 1), (19, 2)])
def test_grouped_convolution_equals_keras(kernel_size, groups, jit_compile):
    """Outputs and gradients, in parts and as one grouped convolution of the same kernel."""
    layer = GroupedConv(kernel_size, groups)
    layer.build((None, None, 8))
    randomize(layer.weights)
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 11, 8)).astype("float32"))

    def convolution(x):
        before, after = kernel_size // 2, (kernel_size - 1) // 2
        x = ops.pad(x, ((0, 0), (before, after), (0, 0)))
        return ops.conv(x, layer.kernel, padding="valid") + layer.bias

    assert layer(x).shape == x.shape
    assert_same_function(layer, convolution, x, layer.weights, jit_compile)


def assert_same_function(one, other, x, weights, jit_compile):
    @tf.function(jit_compile=jit_compile)
    def evaluate(x, random):
        results = []
        for function in (one, other):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = function(x)
                loss = tf.reduce_sum(y * random[: tf.size(y)][: y.shape[1]][:, None])
            results.append([y, *tape.gradient(loss, [x, *(v.value for v in weights)])])
        return results

    random = tf.constant(np.random.default_rng(1).normal(size=100).astype("float32"))
    for got, expected in zip(*evaluate(x, random), strict=True):
        scale = np.abs(expected).max()
        assert scale > 1e-2
        assert_allclose(got, expected, atol=1e-5 * scale)


@pytest.mark.parametrize(("kernel_sizes", "strides"), STACKS)
def test_a_frame_is_padding_exactly_where_it_sees_padding(kernel_sizes, strides):
    frontend = WaveformFrontend(4, [16] * len(strides), kernel_sizes, strides)
    shortest = receptive_field(kernel_sizes, strides)
    frontend.build({"waveform": (None, None)})
    randomize(frontend.weights)
    rng = np.random.default_rng(0)
    waveform = rng.normal(size=(40, shortest + 100)).astype("float32")
    lengths = rng.integers(0, shortest + 101, size=40)
    padding_mask = np.arange(shortest + 100) < lengths[:, None]
    clean = frontend({"waveform": waveform, "padding_mask": padding_mask})
    poisoned = frontend({"waveform": np.where(padding_mask, waveform, 1e3), "padding_mask": None})
    changed = np.abs(clean["features"] - poisoned["features"]).max(axis=-1) > 1e-4  # [B, T]
    assert_array_equal(clean["padding_mask"], ~changed)
    assert changed.any() and not changed.all()


@pytest.mark.parametrize("dtype", ["bool", "int32", "int64", "float32"])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_frames_are_counted_exactly_in_any_type(policy, dtype):
    """Half precision cannot count to 640."""
    backbone, inputs = make_backbone(dtype=policy), make_inputs(dtype=dtype)
    for padding_mask in (
        backbone.feature_padding_mask(inputs),
        backbone.frontend(inputs)["padding_mask"],
    ):
        assert padding_mask.dtype == tf.bool
        assert_array_equal(padding_mask, np.arange(31) < np.array(FRAMES)[:, None])
    expected = backbone(make_inputs())
    assert_array_equal(np.asarray(backbone(inputs), "float32"), np.asarray(expected, "float32"))


def outputs_by_length(backbone, waveform, padding_mask):
    inputs = {"waveform": waveform, "padding_mask": padding_mask}
    features = [backbone(inputs)]
    for kind in ("block", "ffn"):
        features += backbone.block_features(inputs, kind)
    return [np.asarray(x) for x in features]


# Keras warns of the softmax over the one frame of the shortest example.
@pytest.mark.filterwarnings("ignore:.*You are using a softmax over axis -1:UserWarning")
def test_invariant_padding_changes_nothing_at_real_frames():
    """Whatever stands in the padding, and however long it is."""
    backbone, waveform = make_backbone(), make_waveform()
    poisoned = np.where(PADDING_MASK, waveform, 1e3).astype("float32")
    longer = np.pad(poisoned, ((0, 0), (0, 333)), constant_values=-7.0)
    padded = outputs_by_length(backbone, poisoned, PADDING_MASK)
    further = outputs_by_length(backbone, longer, np.pad(PADDING_MASK, ((0, 0), (0, 333))))
    for row, (samples, frames) in enumerate(zip(SAMPLES, FRAMES, strict=True)):
        alone = outputs_by_length(backbone, waveform[row : row + 1, :samples], None)
        assert len(alone) == 5
        for one, got, other in zip(alone, padded, further, strict=True):
            assert one.shape[1] == frames
            assert_allclose(got[row, :frames], one[0], atol=1e-5)
            assert_allclose(other[row, :frames], one[0], atol=1e-5)


def test_reference_padding_reaches_the_last_real_frames_only_through_positions():
    backbone, waveform = make_backbone(padding="reference"), make_waveform()
    invariant = make_backbone()
    output = np.asarray(backbone(make_inputs()))
    alone = np.asarray(backbone({"waveform": waveform[1:2, : SAMPLES[1]]}))
    assert np.abs(output[1, :12] - alone[0]).max() > 1e-2
    assert_allclose(output[0], invariant(make_inputs())[0], atol=1e-5)  # has no padding
    # What stands in the padding does not matter in this form either.
    poisoned = np.where(PADDING_MASK, waveform, 1e3).astype("float32")
    got = backbone({"waveform": poisoned, "padding_mask": PADDING_MASK})
    assert_allclose(got[1, :12], output[1, :12], atol=1e-5)


@pytest.mark.parametrize("padding", ["invariant", "reference"])
def test_the_padding_mask_may_be_left_out(padding):
    backbone, waveform = make_backbone(padding=padding), make_waveform()
    expected = backbone({"waveform": waveform, "padding_mask": np.ones((3, 640), "int32")})
    for inputs in ({"waveform": waveform}, {"waveform": waveform, "padding_mask": None}):
        assert_allclose(backbone(inputs), expected, atol=1e-6)
        assert backbone.feature_padding_mask(inputs) is None
        for one in backbone.block_features(inputs, "block")[-1:]:
            assert_allclose(one, expected, atol=1e-6)
    assert_allclose(backbone.predict({"waveform": waveform}, verbose=0), expected, atol=1e-6)


def test_an_example_of_padding_only_stays_finite():
    padding_mask = PADDING_MASK.copy()
    padding_mask[2] = False
    got = make_backbone()({"waveform": make_waveform(), "padding_mask": padding_mask})
    assert np.isfinite(got).all()


def test_positions_are_computed_from_what_the_mask_left():
    """A frame behind the mask token is not seen by its neighbours; its own token is."""
    backbone = make_backbone()
    embedded = backbone.frontend({"waveform": make_waveform()})["features"].numpy()
    mask = np.zeros((3, 31), bool)
    mask[:, 10:13] = True
    hidden = embedded + np.where(mask[..., None], 5.0, 0.0).astype("float32")
    one, other = (backbone.positions(backbone.mask_token(x, mask)) for x in (embedded, hidden))
    assert_array_equal(one, other)
    assert np.abs(backbone.positions(hidden) - backbone.positions(embedded)).max() > 1e-2
    token = np.broadcast_to(backbone.mask_token.embedding, (3, 3, 8))
    assert_array_equal(backbone.mask_token(embedded, mask)[:, 10:13], token)


@pytest.mark.parametrize("factor", [0.1, 1.0, 2.0])
def test_the_gradient_into_the_convolutions_is_scaled(factor):
    plain, scaled = make_backbone(), make_backbone(feature_grad_mult=factor)
    inputs, gradients = make_inputs(), []
    for backbone in (plain, scaled):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(backbone(inputs)[..., 0])
        variables = [v.value for v in backbone.frontend.trainable_variables]
        gradients.append(tape.gradient(loss, variables))
    assert_array_equal(scaled(inputs), plain(inputs))
    for variable, got, expected in zip(
        scaled.frontend.trainable_variables, *gradients[::-1], strict=True
    ):
        inside = "/conv_" in variable.path
        expected = np.asarray(expected) * (factor if inside else 1.0)
        assert np.abs(expected).max() > 1e-6
        assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_a_gradient_scaled_by_zero_freezes_the_convolutions():
    backbone = make_backbone(feature_grad_mult=0.0)
    assert_array_equal(backbone(make_inputs()), make_backbone()(make_inputs()))
    names = [v.path.split("/")[1] for v in backbone.frontend.trainable_variables]
    assert sorted(set(names)) == ["feature_norm", "projection"]
    assert len(backbone.frontend.non_trainable_variables) == 3 * 4  # kernel, bias, gamma, beta


def test_initial_weights_are_the_references():
    keras.utils.set_random_seed(0)
    backbone = d2v_tf.Data2VecSpeechBackbone(
        num_layers=1,
        hidden_dim=64,
        num_heads=2,
        intermediate_dim=96,
        conv_dims=(64, 64),
        conv_kernel_sizes=(10, 3),
        conv_strides=(5, 2),
        conv_bias=True,
        position_conv_kernel_size=7,
        position_conv_groups=4,
    )
    frontend, positions = backbone.frontend, backbone.positions
    for conv, fan_in in zip(frontend.convs, (10, 3 * 64), strict=True):  # kaiming_normal_
        kernel = conv.kernel.numpy()
        assert_allclose(kernel.std(), np.sqrt(2 / fan_in), rtol=0.1)
        assert np.abs(kernel).max() > 2.5 * kernel.std()  # not truncated at two deviations
        assert_uniform(conv.bias, -(fan_in**-0.5), fan_in**-0.5)
    for variable in (frontend.projection.kernel, frontend.projection.bias):
        assert_uniform(variable, -1 / 8, 1 / 8)
    assert_uniform(backbone.mask_token.embedding, 0, 1)
    limit = (7 * 64 / 4) ** -0.5
    for variable in (positions.convs[0].kernel, positions.convs[4].bias):
        assert_uniform(variable, -limit, limit)
    different = positions.convs[0].kernel.numpy() != positions.convs[1].kernel.numpy()
    assert different.mean() > 0.99


def assert_uniform(variable, low, high):
    values = variable.numpy()
    assert low <= values.min() < low + 0.15 * (high - low)
    assert high - 0.15 * (high - low) < values.max() <= high
    error = 4 * (high - low) / np.sqrt(12 * values.size)
    assert_allclose(values.mean(), (low + high) / 2, atol=error)


@pytest.mark.parametrize("name", ["dropout", "attention_dropout", "activation_dropout"])
def test_dropout_is_active_in_training_only(name):
    backbone, inputs = make_backbone(**{name: 0.5}), make_inputs()
    assert_array_equal(backbone(inputs), make_backbone()(inputs))
    assert np.abs(backbone(inputs, training=True) - backbone(inputs)).max() > 1e-2


def test_the_features_are_dropped_where_the_teacher_does_not_look():
    """Frontend and mask token are the teacher's too; positions are computed for each."""
    backbone, inputs = make_backbone(feature_dropout=0.5), make_inputs()
    embedded = backbone.frontend(inputs, training=True)
    assert_array_equal(embedded["features"], make_backbone().frontend(inputs)["features"])
    args = (embedded["features"], embedded["padding_mask"])
    teacher = backbone.positions(*args, training=False)
    assert_array_equal(teacher, make_backbone().positions(*args))
    assert np.abs(backbone.positions(*args, training=True) - teacher).max() > 1e-2


def test_config_round_trip():
    backbone = d2v_tf.Data2VecSpeechBackbone(**ARGUMENTS)
    config = backbone.get_config()
    assert {name: config[name] for name in ARGUMENTS} == ARGUMENTS
    for name in ARGUMENTS:
        assert getattr(backbone, name) == ARGUMENTS[name]
    copy = d2v_tf.Data2VecSpeechBackbone.from_config(config)
    assert copy.get_config() == config
    copy.set_weights(backbone.get_weights())
    assert_array_equal(copy(make_inputs()), backbone(make_inputs()))
    for layer in (backbone.frontend, backbone.positions, backbone.encoder):
        assert type(layer).from_config(layer.get_config()).get_config() == layer.get_config()


@pytest.mark.parametrize("loader", [d2v_tf.Data2VecSpeechBackbone, keras_hub.models.Backbone])
def test_preset_round_trip(loader, tmp_path):
    backbone, inputs = make_backbone(), make_inputs()
    backbone.save_to_preset(str(tmp_path))
    loaded = loader.from_preset(str(tmp_path))
    assert type(loaded) is d2v_tf.Data2VecSpeechBackbone
    assert loaded.get_config() == backbone.get_config()
    assert_array_equal(loaded(inputs), backbone(inputs))
    assert_array_equal(
        loaded({"waveform": inputs["waveform"]}), backbone({"waveform": inputs["waveform"]})
    )


def test_keras_file_round_trip(tmp_path):
    backbone, inputs = make_backbone(), make_inputs()
    backbone.save(tmp_path / "backbone.keras")
    loaded = keras.models.load_model(tmp_path / "backbone.keras")
    assert_array_equal(loaded(inputs), backbone(inputs))


def test_half_precision_is_near_float32_and_keeps_float32_weights():
    exact, half = make_backbone(), make_backbone(dtype="mixed_bfloat16")
    inputs = make_inputs()
    assert {v.dtype for v in half.weights} == {"float32"}
    assert keras.backend.standardize_dtype(half(inputs).dtype) == "bfloat16"
    real = np.arange(31) < np.array(FRAMES)[:, None]
    assert_allclose(np.asarray(half(inputs), "float32")[real], exact(inputs)[real], atol=0.3)
    for layer in (*half.frontend.convs, *half.positions.convs, half.encoder.blocks[0]):
        assert layer.compute_dtype == "bfloat16"


def test_it_trains_as_part_of_an_ordinary_model():
    backbone = make_backbone()
    pooled = keras.layers.GlobalAveragePooling1D()(backbone.output)
    model = keras.Model(backbone.input, keras.layers.Dense(2)(pooled))
    backbone.mask_token.trainable = False  # nothing is masked here
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [v.numpy() for v in backbone.trainable_variables]
    model.fit(make_inputs(), np.array([0, 1, 1]), verbose=0)
    assert len(before) == len(backbone.weights) - 1
    for new, old in zip(backbone.trainable_variables, before, strict=True):
        assert (new.numpy() != old).any() or new.name == "key_bias", new.path  # softmax ignores it


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 3}, "num_heads must divide hidden_dim. Received: hidden_dim=8, num_heads=3"),
        ({"position_conv_groups": 3}, "position_conv_groups must divide .*hidden_dim=8.*groups=3"),
        ({"conv_strides": (5, 2)}, r"one entry each a layer.*conv_strides=\(5, 2\)"),
        ({"padding": "same"}, "padding must be one of .*'invariant', 'reference'.*'same'"),
        ({"layer_drop": 1.0}, "layer_drop must be at least 0 and below 1. Received: 1.0"),
        ({"feature_grad_mult": -1}, "feature_grad_mult must be at least 0. Received: -1"),
    ],
)
def test_errors_name_the_argument_and_the_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_backbone(**arguments)


def test_a_waveform_without_a_frame_is_refused():
    with pytest.raises(ValueError, match=r"at least 30 samples.*waveform.shape=\(3, 29\)"):
        make_backbone()({"waveform": np.zeros((3, 29), "float32")})


def test_padding_layers_refuse_what_the_backbone_does():
    with pytest.raises(ValueError, match="padding must be one of"):
        ConvPositions(padding=None)


@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="PyTorch is not installed: pip install torch",
)
def test_it_gives_the_same_numbers_on_keras_torch_backend(tmp_path):
    backbone, inputs = make_backbone(), make_inputs()
    backbone.save_to_preset(str(tmp_path))
    np.savez(tmp_path / "inputs.npz", **inputs)
    program = """
import sys
import keras, keras_hub, numpy as np
import d2v_tf

assert keras.backend.backend() == "torch"
folder = sys.argv[1]
backbone = d2v_tf.Data2VecSpeechBackbone.from_preset(folder)
inputs = dict(np.load(folder + "/inputs.npz"))
features = [backbone(inputs), *backbone.block_features(inputs, "ffn")]
features += [backbone(inputs, training=True), backbone({"waveform": inputs["waveform"]})]
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
    output, whole = backbone(inputs), backbone({"waveform": inputs["waveform"]})
    expected = [output, *backbone.block_features(inputs, "ffn"), output, whole]
    assert_allclose(np.load(tmp_path / "features.npy"), np.stack(expected), atol=1e-4)
