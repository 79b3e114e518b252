"""KerasHub's own tasks, preprocessors and loaders, on our backbones and presets."""

import keras
import keras_hub
import numpy as np
import pytest

import d2v_tf
from d2v_tf.data.tokenization import train_tokenizer
from tests.interop.tiny import assert_same_backbone, make_backbone

TEXTS = np.array(["the cat sat on the mat", "the dog, the log & the fög!", "the cat", "a log"])
LABELS = np.array([0, 1, 2, 0])
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (4, 20, 16, 3)).astype("uint8")
WAVEFORMS = RNG.normal(1.0, 2.0, (4, 600)).astype("float32")


def image_converter():
    return d2v_tf.Data2VecImageConverter(image_size=(12, 12), scale=1 / 127.5, offset=-1.0)


def text_backbone():
    return make_backbone("text", vocabulary_size=280)


def tokenizer():
    return train_tokenizer(TEXTS.tolist() * 5, 275).in_graph()


def save(backbone, layer, folder):
    """A preset as a run writes it."""
    backbone.save_to_preset(str(folder))
    layer.save_to_preset(str(folder))
    return str(folder)


def fit_a_step(task, x):
    """A batch of all; returns predictions after it, which differ from those before."""
    before = task.predict(x, verbose=0)
    task.compile(
        keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    task.fit(x, LABELS, batch_size=4, shuffle=False, verbose=0)
    after = task.predict(x, verbose=0)
    assert before.shape == after.shape == (4, 3)
    assert np.abs(after - before).max() > 1e-3
    return after


def assert_same_after_saving(task, x, expected, path):
    task.save(path)
    again = keras.saving.load_model(path, compile=False)
    assert type(again) is type(task)
    np.testing.assert_allclose(again.predict(x, verbose=0), expected, atol=1e-5)


class TestImages:
    @pytest.fixture
    def backbone(self):
        backbone = make_backbone("vision_per_block")
        backbone.mask_token.trainable = False  # it gets no gradient, of which Keras warns
        return backbone

    @pytest.fixture
    def preprocessor(self):
        return keras_hub.models.ImageClassifierPreprocessor(image_converter=image_converter())

    @pytest.mark.parametrize("pooling", ["token", "gap"])
    def test_kerashubs_vit_classifier(self, backbone, preprocessor, pooling, tmp_path):
        task = keras_hub.models.ViTImageClassifier(
            backbone=backbone, num_classes=3, preprocessor=preprocessor, pooling=pooling
        )
        after = fit_a_step(task, IMAGES)
        prepared = image_converter()(IMAGES)
        np.testing.assert_allclose(task(prepared), after, atol=1e-5)
        assert_same_after_saving(task, IMAGES, after, tmp_path / "task.keras")

    def test_its_preset_gives_the_backbone_and_the_settings_back(
        self, backbone, preprocessor, tmp_path
    ):
        task = keras_hub.models.ViTImageClassifier(
            backbone=backbone, num_classes=3, preprocessor=preprocessor
        )
        task.save_to_preset(str(tmp_path))
        assert_same_backbone(d2v_tf.load_backbone(tmp_path, verbose=False), backbone)
        got = d2v_tf.load_preprocessing(tmp_path)
        np.testing.assert_array_equal(got(IMAGES), image_converter()(IMAGES))
        # A task of KerasHub's is for its own backbone: it does not look into its own task.json.
        with pytest.raises(ValueError, match="Unable to find a subclass of ViTImageClassifier"):
            keras_hub.models.ViTImageClassifier.from_preset(str(tmp_path))

    def test_kerashubs_image_classifier_takes_maps_of_features(
        self, backbone, preprocessor, tmp_path
    ):
        """It pools `[B, H, W, D]`; our tokens have to be laid out so first."""
        with pytest.raises(ValueError, match="expected ndim=4, found ndim=3"):
            keras_hub.models.ImageClassifier(backbone=backbone, num_classes=3)
        inputs = keras.Input(backbone.image_shape)
        patches = backbone(inputs)[:, backbone.num_prefix_tokens :]
        grid = keras.layers.Reshape((*backbone.grid, backbone.hidden_dim))(patches)
        task = keras_hub.models.ImageClassifier(
            backbone=keras.Model(inputs, grid), num_classes=3, preprocessor=preprocessor
        )
        after = fit_a_step(task, IMAGES)
        assert_same_after_saving(task, IMAGES, after, tmp_path / "task.keras")
        task.save_to_preset(str(tmp_path / "preset"))
        again = keras_hub.models.ImageClassifier.from_preset(str(tmp_path / "preset"))
        np.testing.assert_allclose(again.predict(IMAGES, verbose=0), after, atol=1e-5)

    def test_a_preset_gives_converter_and_preprocessor(self, backbone, tmp_path):
        preset = save(backbone, image_converter(), tmp_path)
        expected = image_converter()(IMAGES)
        for converter in (
            keras_hub.layers.ImageConverter.from_preset(preset),
            d2v_tf.Data2VecImageConverter.from_preset(preset),
            d2v_tf.load_preprocessing(preset),
        ):
            assert type(converter) is d2v_tf.Data2VecImageConverter
            np.testing.assert_array_equal(converter(IMAGES), expected)
        preprocessor = keras_hub.models.ImageClassifierPreprocessor.from_preset(preset)
        assert type(preprocessor) is d2v_tf.Data2VecImageClassifierPreprocessor
        images, labels = preprocessor(IMAGES, LABELS)
        np.testing.assert_array_equal(images, expected)
        np.testing.assert_array_equal(labels, LABELS)

    def test_a_preprocessor_survives_in_a_preset(self, backbone, tmp_path):
        preset = save(
            backbone, d2v_tf.Data2VecImageClassifierPreprocessor(image_converter()), tmp_path
        )
        again = keras_hub.models.ImageClassifierPreprocessor.from_preset(preset)
        assert type(again) is d2v_tf.Data2VecImageClassifierPreprocessor
        np.testing.assert_array_equal(again(IMAGES), image_converter()(IMAGES))
        assert type(d2v_tf.load_preprocessing(preset)) is d2v_tf.Data2VecImageConverter


class TestTexts:
    def test_kerashubs_roberta_classifier(self, tmp_path):
        layer = tokenizer()
        preprocessor = keras_hub.models.RobertaTextClassifierPreprocessor(
            tokenizer=layer, sequence_length=10
        )
        task = keras_hub.models.RobertaTextClassifier(
            backbone=text_backbone(), num_classes=3, preprocessor=preprocessor
        )
        after = fit_a_step(task, TEXTS)
        assert_same_after_saving(task, TEXTS, after, tmp_path / "task.keras")
        task.save_to_preset(str(tmp_path / "preset"))
        again = d2v_tf.load_backbone(tmp_path / "preset", verbose=False)
        assert_same_backbone(again, task.backbone)
        assert d2v_tf.load_preprocessing(tmp_path / "preset").vocabulary == layer.vocabulary

    def test_a_preset_gives_tokenizer_and_preprocessor(self, tmp_path):
        preset = save(text_backbone(), tokenizer(), tmp_path)
        expected = tokenizer()(TEXTS)
        for layer in (
            keras_hub.models.Tokenizer.from_preset(preset),
            d2v_tf.Data2VecTextTokenizer.from_preset(preset),
            d2v_tf.load_preprocessing(preset),
        ):
            assert type(layer) is d2v_tf.Data2VecTextTokenizer
            for one, other in zip(layer(TEXTS), expected, strict=True):
                np.testing.assert_array_equal(one, other)
        preprocessor = keras_hub.models.TextClassifierPreprocessor.from_preset(preset)
        assert type(preprocessor) is d2v_tf.Data2VecTextClassifierPreprocessor
        assert preprocessor.sequence_length == 10  # the backbone's, not KerasHub's 512
        ids = [np.asarray(row).tolist() for row in expected]
        inputs = preprocessor(TEXTS[2:])
        for row, mask, own in zip(
            inputs["token_ids"], inputs["padding_mask"], ids[2:], strict=True
        ):
            wanted = [0, *own, 2]
            padding = 10 - len(wanted)
            assert np.asarray(row).tolist() == wanted + [1] * padding
            assert np.asarray(mask).tolist() == [1] * len(wanted) + [0] * padding
        shorter = keras_hub.models.TextClassifierPreprocessor.from_preset(preset, sequence_length=6)
        assert shorter(TEXTS)["token_ids"].shape == (4, 6)

    def test_pairs_are_packed_as_roberta_packs_them(self, tmp_path):
        preset = save(text_backbone(), tokenizer(), tmp_path)
        preprocessor = keras_hub.models.TextClassifierPreprocessor.from_preset(preset)
        one, other = (np.asarray(row).tolist() for row in tokenizer()(TEXTS[2:]))
        # As `x`, or with labels: a tuple of two by itself is read as texts and labels.
        tokens = preprocessor(x=(TEXTS[2:3], TEXTS[3:]))["token_ids"]
        wanted = [0, *one, 2, 2, *other, 2]
        assert len(wanted) <= 10
        assert np.asarray(tokens)[0].tolist() == wanted + [1] * (10 - len(wanted))


class TestWaveforms:
    def test_a_preset_gives_converter_and_preprocessor(self, tmp_path):
        preset = save(make_backbone("speech"), d2v_tf.Data2VecAudioConverter(), tmp_path)
        expected = d2v_tf.Data2VecAudioConverter()(WAVEFORMS)
        for converter in (
            keras_hub.layers.AudioConverter.from_preset(preset),
            d2v_tf.Data2VecAudioConverter.from_preset(preset),
            d2v_tf.load_preprocessing(preset),
        ):
            assert type(converter) is d2v_tf.Data2VecAudioConverter
            np.testing.assert_array_equal(converter(WAVEFORMS)["waveform"], expected["waveform"])
        preprocessor = d2v_tf.Data2VecAudioClassifierPreprocessor.from_preset(preset)
        inputs, labels = preprocessor(WAVEFORMS, LABELS)
        np.testing.assert_array_equal(inputs["waveform"], expected["waveform"])
        np.testing.assert_array_equal(inputs["padding_mask"], expected["padding_mask"])
        np.testing.assert_array_equal(labels, LABELS)

    def test_a_task_takes_waveforms_as_they_are(self, tmp_path):
        """KerasHub has no task for audio; its base class goes through `tf.data`."""
        backbone = make_backbone("speech")
        backbone.mask_token.trainable = False
        outputs = keras.layers.Dense(3)(keras.ops.mean(backbone.output, axis=1))
        task = keras_hub.models.Task(inputs=backbone.input, outputs=outputs, compile=False)
        task.preprocessor = d2v_tf.Data2VecAudioClassifierPreprocessor(
            d2v_tf.Data2VecAudioConverter()
        )
        after = fit_a_step(task, WAVEFORMS)
        prepared = d2v_tf.Data2VecAudioConverter()(WAVEFORMS)
        np.testing.assert_allclose(task(prepared), after, atol=1e-4)


def test_a_preset_without_settings_is_refused_by_name(tmp_path):
    backbone = make_backbone("vision_per_block")
    backbone.save_to_preset(str(tmp_path))
    with pytest.raises((FileNotFoundError, ValueError), match="image_converter.json"):
        keras_hub.models.ImageClassifierPreprocessor.from_preset(str(tmp_path))


def own_cases():
    return {
        "image": (
            keras_hub.models.ImageClassifier,
            "vision_per_block",
            {},
            image_converter,
            IMAGES,
        ),
        "text": (
            keras_hub.models.TextClassifier,
            "text",
            {"vocabulary_size": 280},
            tokenizer,
            TEXTS,
        ),
        "audio": (
            d2v_tf.Data2VecAudioClassifier,
            "speech",
            {},
            d2v_tf.Data2VecAudioConverter,
            WAVEFORMS,
        ),
    }


@pytest.mark.parametrize("name", ["image", "text", "audio"])
def test_our_classifiers_need_no_more_than_a_preset(name, tmp_path):
    """KerasHub's base class finds them by the backbone; raw data goes in."""
    base, backbone, changes, layer, x = own_cases()[name]
    preset = save(make_backbone(backbone, **changes), layer(), tmp_path / "backbone")
    task = base.from_preset(preset, num_classes=3)
    assert type(task) is getattr(d2v_tf, f"Data2Vec{name.title()}Classifier")
    assert type(task.preprocessor) is type(task).preprocessor_cls
    after = fit_a_step(task, x)
    task.save_to_preset(str(tmp_path / "task"))
    for again in (
        base.from_preset(str(tmp_path / "task")),
        d2v_tf.load_task(tmp_path / "task", verbose=False),
    ):
        assert type(again) is type(task)
        np.testing.assert_allclose(again.predict(x, verbose=0), after, atol=1e-5)
    assert base.from_preset(str(tmp_path / "task"), num_classes=5).output_shape == (None, 5)
