"""Image and audio settings and tokenizers: taken along both ways, or refused by name."""

import json

import keras
import numpy as np
import pytest

import d2v_tf
from d2v_tf.data.tokenization import load_tokenizer, train_tokenizer
from d2v_tf.interop.key_map import WeightsError
from tests.interop.tiny import make_backbone

BEIT = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.2], "size": 12}


def with_settings(tmp_path, name, settings, file="preprocessor_config.json"):
    d2v_tf.save_huggingface(make_backbone(name), tmp_path)
    (tmp_path / file).write_text(json.dumps(settings))
    return tmp_path


def picture(height, width, rng):
    """A smooth image with noise, 0 to 255."""
    coarse = rng.integers(0, 256, (4, 5, 3)).astype("float32")
    image = keras.ops.convert_to_numpy(keras.ops.image.resize(coarse, (height, width)))
    return np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype("uint8")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"size": {"height": 10, "width": 14}, "resample": 2},
        {"size": {"shortest_edge": 12}, "do_center_crop": True, "crop_size": 12},
        {"do_resize": False},
        {"do_normalize": False},
        {"do_rescale": False, "image_std": 2.0, "image_mean": 3},
    ],
)
def test_images_as_transformers_prepares_them(tmp_path, settings):
    pytest.importorskip("PIL")
    pytest.importorskip("torch")
    beit = pytest.importorskip("transformers.models.beit.image_processing_pil_beit")
    settings = {**BEIT, **settings}
    processor = beit.BeitImageProcessorPil(**settings)
    path = with_settings(tmp_path, "vision_per_block", settings)
    image = picture(40, 40, np.random.default_rng(0))
    expected = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    layer = d2v_tf.load_preprocessing(path)
    got = keras.ops.convert_to_numpy(layer(image.astype("float32")))
    assert got.shape == expected.shape
    # Theirs rounds pixels to whole numbers after it resized them: at most one and a half here.
    step = np.max(np.abs(layer.scale))
    assert np.abs(got - expected).max() <= (1.5 * step if layer.image_size else 1e-5)


def test_image_settings_there_and_back(tmp_path):
    layer = d2v_tf.Data2VecImageConverter(
        image_size=(12, 12),
        scale=[0.01, 0.02, 0.03],
        offset=[-1.0, -2.0, 0.5],
        crop_to_aspect_ratio=True,
        interpolation="bicubic",
        antialias=True,
    )
    d2v_tf.save_huggingface(make_backbone("vision_per_block"), tmp_path, layer)
    got = d2v_tf.load_preprocessing(tmp_path)
    assert got.crop_to_aspect_ratio and got.antialias and got.interpolation == "bicubic"
    assert got.image_size == (12, 12)
    np.testing.assert_allclose(got.scale, layer.scale, rtol=1e-6)
    np.testing.assert_allclose(got.offset, layer.offset, rtol=1e-6)
    got = d2v_tf.load_preprocessing(tmp_path, image_shape=(24, 16, 3))
    assert got.image_size == (24, 16)
    layer.antialias = False
    with pytest.warns(UserWarning, match="antialias=False: transformers always smooths"):
        d2v_tf.save_huggingface(make_backbone("vision_per_block"), tmp_path, layer)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": {"shortest_edge": 14}}, "size {'shortest_edge': 14} with do_center_crop False"),
        ({"size": 256, "do_center_crop": True}, "size 256 with do_center_crop True to crop_size"),
        ({"resample": 4}, "resample is 4, which is not supported; only 0, 1, 2, 3 are"),
        ({"image_std": [0.5, 0.0, 0.5]}, r"image_std is \[0.5, 0.0, 0.5\]; positive numbers"),
        ({"image_mean": "half"}, "image_mean is 'half'"),
        ({"do_resize": "yes"}, "do_resize is 'yes'; a value like True is needed"),
        ({"do_flip": True}, "unknown fields: do_flip. If they do not change the input"),
    ],
)
def test_image_settings_that_are_refused(tmp_path, settings, message):
    path = with_settings(tmp_path, "vision_per_block", {**BEIT, **settings})
    with pytest.raises(WeightsError, match=f"preprocessor_config.json: .*{message}"):
        d2v_tf.load_preprocessing(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": (12, 16), "crop_to_aspect_ratio": True}, "which is not square"),
        ({"pad_to_aspect_ratio": True, "crop_to_aspect_ratio": False}, "pad_to_aspect_ratio=True"),
        ({"interpolation": "lanczos5"}, "interpolation='lanczos5'"),
    ],
)
def test_image_settings_that_cannot_be_written(tmp_path, changes, message):
    layer = d2v_tf.Data2VecImageConverter(**{"image_size": (12, 12), **changes})
    with pytest.raises(WeightsError, match=f"cannot be written for transformers: .*{message}"):
        d2v_tf.save_huggingface(make_backbone("vision_per_block"), tmp_path, layer)


@pytest.mark.parametrize("nested", [False, True])
def test_waveforms_as_transformers_prepares_them(tmp_path, nested):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    settings, file = extractor.to_dict(), "preprocessor_config.json"
    if nested:
        settings, file = {"feature_extractor": settings, "tokenizer": {}}, "processor_config.json"
    path = with_settings(tmp_path, "speech", settings, file)
    rng = np.random.default_rng(0)
    waveforms = [rng.normal(0.3, 0.2, n).astype("float32") for n in (500, 300)]
    expected = extractor(waveforms, sampling_rate=16000, padding=True, return_tensors="np")
    got = d2v_tf.load_preprocessing(path)(waveforms)
    np.testing.assert_allclose(got["waveform"], expected["input_values"], atol=1e-5)
    np.testing.assert_array_equal(got["padding_mask"], expected["attention_mask"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampling_rate": 8000}, "sampling_rate is 8000, which is not supported; only 16000 is"),
        ({"do_normalize": False}, "do_normalize is False, which is not supported; only True is"),
        ({"feature": 1}, "unknown fields: feature"),
    ],
)
def test_audio_settings_that_are_refused(tmp_path, settings, message):
    path = with_settings(tmp_path, "speech", settings)
    with pytest.raises(WeightsError, match=message):
        d2v_tf.load_preprocessing(path)


class TestTokenizers:
    TEXTS = ["the cat sat on the mat", "the dog, the log & the fög!"] * 5

    @pytest.fixture
    def backbone(self):
        return make_backbone("text", vocabulary_size=280)

    @pytest.fixture
    def tokenizer(self):
        return train_tokenizer(self.TEXTS, 275)

    @pytest.mark.parametrize("files", [["tokenizer.json"], ["vocab.json", "merges.txt"]])
    def test_they_come_along(self, tmp_path, backbone, tokenizer, files):
        d2v_tf.save_huggingface(backbone, tmp_path)
        tokenizer.save(tmp_path / "all")
        for name in files:
            (tmp_path / "all" / name).rename(tmp_path / name)
        layer = d2v_tf.load_preprocessing(tmp_path)
        for text in self.TEXTS[:2]:
            assert np.asarray(layer([text])[0]).tolist() == tokenizer.encode([text])[0]

    def test_there_and_back_and_as_transformers_reads_them(self, tmp_path, backbone, tokenizer):
        d2v_tf.save_huggingface(backbone, tmp_path, tokenizer.in_graph())
        again = load_tokenizer(str(tmp_path))
        assert (again.vocabulary, again.merges) == (tokenizer.vocabulary, tokenizer.merges)
        pytest.importorskip("torch")
        transformers = pytest.importorskip("transformers")
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
        assert theirs.model_max_length == backbone.max_sequence_length
        ids = tokenizer.encode(self.TEXTS[:2])
        assert theirs(self.TEXTS[:2])["input_ids"] == [[0, *row, 2] for row in ids]
        assert theirs("<mask>")["input_ids"] == [0, tokenizer.mask_token_id, 2]

    def test_one_that_does_not_fit_is_refused(self, tmp_path, tokenizer):
        d2v_tf.save_huggingface(make_backbone("text"), tmp_path)  # 30 tokens
        tokenizer.save(tmp_path)
        with pytest.raises(WeightsError, match="its tokenizer has 275 tokens and <pad> at 1; con"):
            d2v_tf.load_preprocessing(tmp_path)


@pytest.mark.parametrize("name", ["vision_per_block", "speech", "text"])
def test_a_folder_without_settings_gives_none(tmp_path, name):
    backbone = make_backbone(name)
    d2v_tf.save_huggingface(backbone, tmp_path / "theirs")
    backbone.save_to_preset(str(tmp_path / "ours"))
    assert d2v_tf.load_preprocessing(tmp_path / "theirs") is None
    assert d2v_tf.load_preprocessing(tmp_path / "ours") is None
