"""Converters of a preset: images as the probes see them, waveforms of the right kind only."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import d2v_tf
from d2v_tf.data.reading import BadExamples
from d2v_tf.data.vision import evaluation_dataset
from d2v_tf.data.vision_sources import open_images

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Height and width: bigger, smaller, the same, long, and sides that fall on a half.
SIZES = [
    (500, 333),
    (333, 500),
    (100, 150),
    (224, 224),
    (30, 700),
    (224, 449),
    (448, 449),
    (40, 31),
]


def make_images(sizes):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3)).astype("uint8") for size in sizes]


def make_converter(size, **kwargs):
    """As a run saves it."""
    std = np.array(STD)
    return d2v_tf.Data2VecImageConverter(
        image_size=size,
        scale=(1 / (255 * std)).tolist(),
        offset=(-np.array(MEAN) / std).tolist(),
        crop_to_aspect_ratio=True,
        **kwargs,
    )


@pytest.fixture(scope="module", params=[(224, 224), (96, 160)], ids=str)
def evaluated(request, tmp_path_factory):
    """(size, images, what `evaluation_dataset` makes of them)."""
    folder = tmp_path_factory.mktemp("images")
    images = make_images(SIZES)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    batches = evaluation_dataset(
        open_images(f"folder:{folder}"),
        image_shape=(*request.param, 3),
        mean=MEAN,
        std=STD,
        batch_size=len(images),
        bad_examples=BadExamples("images", len(images), 0.0, print),
    )
    ((expected, _),) = batches.as_numpy_iterator()
    return request.param, images, expected


class TestImages:
    @pytest.mark.parametrize("dtype", ["uint8", "float32"])
    def test_they_are_those_of_evaluation(self, evaluated, dtype):
        size, images, expected = evaluated
        converter = make_converter(size)
        got = [np.asarray(converter(image.astype(dtype))) for image in images]
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)  # a pixel's step is 0.017
        batch = converter(images[0][None].astype(dtype))
        np.testing.assert_allclose(batch[0], expected[0], rtol=0, atol=1e-5)
        several = converter(images[:3])
        np.testing.assert_allclose(np.stack(several), expected[:3], rtol=0, atol=1e-5)

    def test_they_are_in_tf_data_too(self, evaluated):
        size, images, expected = evaluated
        spec = tf.TensorSpec((None, None, 3), tf.uint8)
        dataset = tf.data.Dataset.from_generator(lambda: iter(images), output_signature=spec)
        dataset = dataset.map(make_converter(size))
        assert dataset.element_spec.shape == (*size, 3)
        got = list(dataset.as_numpy_iterator())
        # Without known sides, what grows goes through the filter, too, which rounds otherwise.
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-4)

    def test_another_way_of_resizing_gives_other_pixels(self, evaluated):
        """So that the tests above could fail: Keras' crop before, and no smoothing."""
        size, images, expected = evaluated
        rough = make_converter(size, antialias=False)(images[0])
        assert np.abs(rough - expected[0]).max() > 0.1
        import keras

        resizing = keras.layers.Resizing(*size, crop_to_aspect_ratio=True, antialias=True)
        keras_way = resizing(images[0].astype("float32")) / (255 * np.array(STD)) - np.divide(
            MEAN, STD
        )
        assert np.abs(keras_way - expected[0]).max() > 0.1

    def test_channels_first_is_the_same_image(self):
        image = make_images([(50, 70)])[0]
        last = d2v_tf.Data2VecImageConverter((20, 24))
        first = d2v_tf.Data2VecImageConverter((20, 24), data_format="channels_first")
        got = np.asarray(first(image.transpose(2, 0, 1)))
        np.testing.assert_allclose(got.transpose(1, 2, 0), last(image), rtol=0, atol=1e-3)

    def test_without_a_crop_both_sides_are_resized(self):
        image = make_images([(50, 70)])[0]
        converter = d2v_tf.Data2VecImageConverter((20, 24), crop_to_aspect_ratio=False)
        expected = tf.image.resize(image, (20, 24), antialias=True)
        np.testing.assert_allclose(converter(image), expected, rtol=0, atol=1e-3)

    def test_the_settings_survive(self, tmp_path):
        converter = make_converter((20, 24), interpolation="bicubic", antialias=False)
        again = d2v_tf.Data2VecImageConverter.from_config(converter.get_config())
        image = make_images([(50, 70)])[0]
        np.testing.assert_array_equal(again(image), converter(image))
        assert d2v_tf.Data2VecImageConverter().antialias
        assert not again.antialias

    def test_the_size_can_be_set_later(self):
        converter = make_converter(None)
        image = make_images([(50, 70)])[0]
        assert converter(image).shape == (50, 70, 3)
        converter.image_size = (20, 24)
        np.testing.assert_array_equal(converter(image), make_converter((20, 24))(image))

    def test_they_are_almost_the_same_with_torch(self, evaluated, tmp_path):
        pytest.importorskip("torch")
        size, images, expected = evaluated
        np.save(tmp_path / "image.npy", images[0])
        code = (
            "import numpy as np, keras\n"
            "from tests.backbones.test_preprocessing import make_converter\n"
            f"got = make_converter({size})(np.load({str(tmp_path / 'image.npy')!r}))\n"
            f"np.save({str(tmp_path / 'got.npy')!r}, keras.ops.convert_to_numpy(got))\n"
        )
        environment = {**os.environ, "KERAS_BACKEND": "torch"}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        np.testing.assert_allclose(np.load(tmp_path / "got.npy"), expected[0], rtol=0, atol=1e-3)


class TestWaveforms:
    converter = d2v_tf.Data2VecAudioConverter()
    rng = np.random.default_rng(0)

    def test_a_list_is_padded(self):
        long, short = self.rng.normal(3.0, 5.0, 600), self.rng.normal(-1.0, 0.1, 400)
        got = self.converter([long, short], sampling_rate=16000)
        np.testing.assert_allclose(got["waveform"][0], (long - long.mean()) / long.std(), atol=1e-5)
        np.testing.assert_allclose(
            got["waveform"][1, :400], (short - short.mean()) / short.std(), atol=1e-4
        )
        assert not got["waveform"][1, 400:].any()
        np.testing.assert_array_equal(got["padding_mask"].sum(axis=1), [600, 400])

    def test_lengths_say_what_is_padding_outside_of_graphs_and_in_them(self):
        waves = [self.rng.normal(3.0, 5.0, n).astype("float32") for n in (600, 400)]
        batch = np.stack([waves[0], np.append(waves[1], np.full(200, 9.0, "float32"))])
        expected = self.converter(waves)
        lengths = np.array([600, 400], "int32")
        in_graph = tf.function(lambda x, n: self.converter(x, lengths=n), autograph=False)
        for got in (self.converter(batch, lengths=lengths), in_graph(batch, lengths)):
            for name, value in expected.items():
                np.testing.assert_allclose(got[name], value, atol=1e-5)

    @pytest.mark.parametrize("shape", [(600,), (3, 600)])
    def test_tf_data_gives_what_a_call_gives(self, shape):
        waveforms = self.rng.normal(3.0, 5.0, shape).astype("float32")
        expected = self.converter(waveforms)
        dataset = tf.data.Dataset.from_tensors(waveforms).map(self.converter)
        (got,) = dataset.as_numpy_iterator()
        assert set(got) == set(expected)
        for name, value in expected.items():
            assert got[name].dtype == value.dtype
            np.testing.assert_allclose(got[name], value, atol=1e-5)

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            (np.zeros((16000, 2)), r"shape \(16000, 2\), which looks like 16000 samples of 2 chan"),
            (np.zeros((3, 16000, 2)), r"shape \(3, 16000, 2\). Of several channels take the mean"),
            ([np.zeros(900), np.zeros((900, 2))], r"waveform 1 must be \[N\], .* \(900, 2\)"),
            (np.float32(1.0), r"Received: an array of shape \(\)"),
            ([], r"at least one waveform. Received: \[\]"),
            ([np.zeros(900), np.zeros(0)], "waveform 1 has no samples. Leave it out"),
            (np.zeros((2, 0)), "waveform 0 has no samples"),
            (
                [np.array([0.0, 1.0, np.nan, np.inf])],
                "2 of the 4 samples of waveform 0 are not finite, the first is nan at 2",
            ),
        ],
    )
    def test_what_is_no_waveform_is_refused(self, inputs, message):
        with pytest.raises(ValueError, match=message):
            self.converter(inputs)

    def test_another_rate_is_refused(self):
        waveform = self.rng.normal(size=900)
        with pytest.raises(ValueError, match=r"at 16000 Hz. Received: sampling_rate=8000. .* soxr"):
            self.converter([waveform], sampling_rate=8000)

    def test_graphs_refuse_them_too(self):
        stereo = tf.data.Dataset.from_tensors(np.zeros((900, 2), "float32"))
        with pytest.raises(ValueError, match="looks like 900 samples of 2 channel"):
            stereo.map(self.converter)
        broken = tf.data.Dataset.from_tensors(np.full((2, 900), np.nan, "float32"))
        with pytest.raises(tf.errors.InvalidArgumentError, match="A waveform"):
            list(broken.map(self.converter))
