"""What a request becomes in the graph, against the evaluation's own reading of the same files."""

import io
import struct

import keras_hub
import numpy as np
import pytest
import tensorflow as tf

import d2v_tf
from d2v_tf.data.audio_files import read_audio
from d2v_tf.data.reading import BadExamples
from d2v_tf.data.vision import evaluation_dataset
from d2v_tf.data.vision_sources import open_images
from d2v_tf.exporting.image_requests import MAX_PIXELS, image_requests
from d2v_tf.exporting.requests import ExportError
from d2v_tf.exporting.speech_requests import speech_requests
from d2v_tf.exporting.text_requests import text_requests
from d2v_tf.exporting.word_cache import bounded
from tests.data.texts import TOPICS
from tests.exporting.models import (
    TOKENIZER,
    image_classifier,
    image_files,
    padded,
    recognizer,
    text_model,
    wav,
    waveforms,
)
from tests.interop.tiny import make_backbone

Invalid = tf.errors.InvalidArgumentError


def graph(requests):
    specs = [tf.TensorSpec(s.shape, s.dtype, name) for name, s in requests.specs.items()]
    names = list(requests.specs)
    return tf.function(
        lambda *x: requests.to_inputs(**dict(zip(names, x, strict=True))), input_signature=specs
    )


@pytest.fixture(scope="module")
def images():
    model, converter = image_classifier()
    (requests,) = image_requests(model.backbone, converter)
    return graph(requests)


@pytest.fixture(scope="module")
def speech():
    model, converter = recognizer()
    return {r.name: graph(r) for r in speech_requests(model.backbone, converter)}


@pytest.fixture(scope="module")
def texts():
    return graph(text_requests(*text_model(), pairs=False)[0])


class TestImages:
    def test_they_are_those_of_evaluation_pixel_for_pixel(self, images, tmp_path):
        files = image_files()
        for i, file in enumerate(files):
            (tmp_path / f"{i}.png").write_bytes(file)  # readers look at what is in it
        mean, std = np.array([0.4, 0.25, -0.1]), np.array([0.2, 0.3, 0.4])
        # The converter of the models says the same in other words.
        scale, offset = np.array([0.01, 0.02, 0.03]), np.array([-1.0, -0.5, 0.5])
        std = 1 / (255 * scale)
        mean = -offset * std
        ((expected, _),) = evaluation_dataset(
            open_images(f"folder:{tmp_path}"),
            image_shape=(12, 12, 3),
            mean=mean.astype("float32").tolist(),
            std=std.astype("float32").tolist(),
            batch_size=len(files),
            bad_examples=BadExamples("images", len(files), 0.0, print),
        ).as_numpy_iterator()
        np.testing.assert_allclose(images(files), expected, rtol=0, atol=2e-5)  # a step is 0.01

    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            (b"", "example 1 is no JPEG, PNG or BMP"),
            (b"no image at all", "example 1 is no JPEG, PNG or BMP"),
            (b"\xff", "is no JPEG"),
            (b"\x89PNG", "has no pixels"),
            (b"BM", "has no pixels"),
            (b"\xff\xd8\xff", "Invalid JPEG"),
            (image_files()[0][:200], "PNG"),
            (image_files()[3][:300], "JPEG"),
            (image_files()[6][:100], "Input size should match"),
            (b"GIF89a" + bytes(40), "is no JPEG"),
        ],
        ids=str,
    )
    def test_what_is_no_image(self, images, bad, message):
        with pytest.raises(Invalid, match=f"(?s){message}"):
            images([image_files()[0], bad])

    @pytest.mark.parametrize("place", [0, 6, "thin"])
    def test_a_small_file_that_promises_gigabytes(self, images, place):
        bomb = bytearray(image_files()[0 if place == "thin" else place])
        if place == 0:
            bomb[16:24] = struct.pack(">II", 30_000, 30_000)
            expected = 30_000 * 30_000
        elif place == 6:
            bomb[18:26] = struct.pack("<ii", 40_000, -40_000)
            expected = 40_000 * 40_000
        else:  # few pixels, of which resizing makes many
            bomb[16:24] = struct.pack(">II", 1, 1_000_000)
            expected = 1_000_000 * 12 * 12
        with pytest.raises(Invalid, match=f"more than {MAX_PIXELS}: {expected}"):
            images([bytes(bomb)])

    def test_a_model_of_gray_images_and_one_without_settings(self):
        gray = make_backbone("vision_shared_absolute_gray")
        with pytest.raises(ExportError, match="read as 3 channels, and the model takes 1"):
            image_requests(gray, image_classifier()[1])
        with pytest.raises(ExportError, match="needs a Data2VecImageConverter .* Received: None"):
            image_requests(make_backbone("vision_per_block"), None)


class TestSpeech:
    def test_waveforms_are_those_of_the_converter(self, speech):
        waves = waveforms()
        batch, lengths = padded(waves)
        expected = d2v_tf.Data2VecAudioConverter()(waves)
        got = speech["padded"](batch, lengths)
        np.testing.assert_array_equal(got["padding_mask"], expected["padding_mask"])
        np.testing.assert_allclose(got["waveform"], expected["waveform"], atol=1e-5)
        got = speech[""](batch[:1])
        np.testing.assert_allclose(got["waveform"], expected["waveform"][:1], atol=1e-5)
        assert np.all(got["padding_mask"] == 1)

    @pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
    @pytest.mark.parametrize("kind", ["WAV", "WAVEX"])
    def test_wav_files_are_read_as_in_training(self, speech, kind, subtype):
        stereo = np.stack([waveforms()[0], -0.5 * waveforms()[0]], axis=1)
        files = [wav(wave, 16_000, subtype, kind) for wave in (waveforms()[1], stereo)]
        expected = d2v_tf.Data2VecAudioConverter()([read_audio(io.BytesIO(f)) for f in files])
        got = speech["wav"](files)
        np.testing.assert_array_equal(got["padding_mask"], expected["padding_mask"])
        np.testing.assert_allclose(got["waveform"], expected["waveform"], atol=1e-5)

    def test_a_chunk_of_odd_length_before_the_samples(self, speech):
        file = wav(waveforms()[1])
        place = file.index(b"data")
        more = file[:place] + b"LIST" + struct.pack("<I", 3) + b"abc\0" + file[place:]
        for one, other in zip(*(speech["wav"]([f]).values() for f in (file, more)), strict=True):
            np.testing.assert_array_equal(one, other)

    @pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
    def test_other_rates_are_resampled_as_in_training(self, speech, rate):
        # Up to 3.5 kHz, which every filter leaves alone.
        time = np.arange(rate // 4) / rate
        wave = sum(np.sin(2 * np.pi * f * time + f) for f in (150, 700, 1900, 3500)) / 8
        wave *= np.hanning(len(wave))
        expected = read_audio(io.BytesIO(wav(wave, rate)))
        expected = d2v_tf.Data2VecAudioConverter()([expected])["waveform"]
        got = speech["wav"]([wav(wave, rate)])["waveform"].numpy()
        assert got.shape == expected.shape == (1, 4000)
        np.testing.assert_allclose(got, expected, atol=2e-3)  # it has a deviation of 1

    def test_samples_that_are_no_numbers_matter_where_they_are_real(self, speech):
        batch, lengths = padded(waveforms())
        batch[1, -1] = np.nan  # padding
        assert np.isfinite(speech["padded"](batch, lengths)["waveform"]).all()
        for value in (np.nan, np.inf):
            batch[1, 5] = value
            with pytest.raises(Invalid, match="samples that are no numbers"):
                speech["padded"](batch, lengths)

    @pytest.mark.parametrize(
        ("lengths", "message"),
        [
            ([900, 0, 600], "example 1 has 0 samples, and the model needs at least 25"),
            ([900, -3, 600], "example 1 has -3 samples"),
            ([900, 300, 901], "example 2 is shorter than its length says, 901"),
            ([900, 300], "waveform and lengths must have as many examples. Received: 3 and 2"),
        ],
    )
    def test_lengths_that_do_not_fit(self, speech, lengths, message):
        batch, _ = padded(waveforms())
        with pytest.raises(Invalid, match=message):
            speech["padded"](batch, lengths)
        with pytest.raises(Invalid, match="example 0 has 0 samples"):
            speech[""](np.zeros((2, 0), "float32"))

    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            (b"", "example 1 is no WAV file"),
            (b"RIFF", "is no WAV file"),
            (b"\xff\xfe" * 40, "is no WAV file"),
            (wav(waveforms()[0], kind="FLAC"), "is no WAV file"),
            (wav(waveforms()[0])[:30], "without a format or without samples"),
            (wav(waveforms()[0])[:60], "is cut off"),
            (wav(waveforms()[0][:0]), "without a format or without samples|has 0 samples"),
            (wav(waveforms()[0], subtype="ULAW"), "of format 7 with 8 bits and 1 channels"),
            (wav(waveforms()[0], 12345), "with 12345 samples a second; it may have"),
            (wav([np.nan] * 400, subtype="FLOAT"), "example 1 has samples that are no numbers"),
            (wav([1e20] * 400, subtype="FLOAT"), "or beyond 1e.09"),
        ],
    )
    def test_files_that_cannot_be_read(self, speech, bad, message):
        with pytest.raises(Invalid, match=message):
            speech["wav"]([wav(waveforms()[0]), bad])

    def test_no_longer_than_it_was_exported_for(self):
        backbone = recognizer()[0].backbone
        short = {r.name: graph(r) for r in speech_requests(backbone, None, max_seconds=0.05)}
        wave = waveforms()[0]
        assert short[""](wave[None, :800])["waveform"].shape == (1, 800)
        with pytest.raises(Invalid, match="example 0 has 801 samples, padding counted.* 800: 0.05"):
            short[""](wave[None, :801])
        with pytest.raises(Invalid, match="example 0 has 900 samples, padding counted"):
            short["padded"](wave[None], [300])
        for rate, longest in ((8000, 400), (11025, 551), (16000, 800), (192000, 9600)):
            samples = np.resize(wave, longest + 1)
            files = [wav(wave[:300]), wav(np.stack([samples[:-1]] * 2, axis=1), rate)]
            assert short["wav"](files)["waveform"].shape[1] in (799, 800)
            message = f"example 1 has {longest + 1} samples at {rate} Hz.* at most 0.05 seconds"
            with pytest.raises(Invalid, match=message):
                short["wav"]([files[0], wav(samples, rate)])


@pytest.mark.parametrize("kind", ["images", "speech"])
def test_damaged_files_are_answered_or_refused(request, kind):
    """Anything but an answer and a refusal, such as bytes in a message, fails here."""
    function = request.getfixturevalue(kind)
    files = image_files() if kind == "images" else [wav(waveforms()[0]), wav(waveforms()[1], 8000)]
    function = function if kind == "images" else function["wav"]
    rng = np.random.default_rng(0)
    refused = 0
    for i in range(80):
        file = bytearray(files[i % len(files)])
        for place in rng.integers(0, 60 if i % 2 else len(file), 3):
            file[place % len(file)] = rng.integers(256)
        try:
            function([bytes(file[: rng.integers(1, 2 * len(file))])])
        except Invalid:
            refused += 1
    assert 20 < refused < 80


class TestTexts:
    def test_ids_are_those_of_the_tokenizer(self, texts):
        lines = [line for topic in TOPICS[:6] for line in topic.split("\n") if line.strip()]
        lines = [line.strip()[:60] for line in lines if line.strip()[:60].strip()][:120]
        lines += ["naïve café", "你好 🙂", " around ", "A" * 100]
        got = texts(lines)
        for i, line in enumerate(lines):
            ids = TOKENIZER.encode([line.strip()])[0][:12]
            expected = [TOKENIZER.start_token_id, *ids, TOKENIZER.end_token_id]
            real = int(np.sum(got["padding_mask"][i]))
            assert got["token_ids"][i, :real].numpy().tolist() == expected, line

    def test_they_are_as_long_as_the_longest(self, texts):
        got = texts(["a cat", "a"])
        assert got["token_ids"].shape[1] == max(
            2 + len(t) for t in TOKENIZER.encode(["a cat", "a"])
        )

    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            (b"", "example 1 is an empty text"),
            (b" \t\n", "is an empty text"),
            (b"caf\xe9", "example 1 is not UTF-8"),
            (b"\xed\xa0\x80", "is not UTF-8"),  # half of a surrogate pair
        ],
    )
    def test_what_is_no_text(self, texts, bad, message):
        with pytest.raises(Invalid, match=message):
            texts([b"a cat", bad])

    def test_every_character_may_be_in_it(self, texts):
        # One text a block of Unicode, so that none is refused as something else than UTF-8.
        every = [chr(c) for c in range(1, 0x11000) if not 0xD800 <= c < 0xE000]
        blocks = ["x" + "".join(every[i : i + 4]) for i in range(0, len(every), 64)]
        assert texts(blocks)["token_ids"].shape[0] == len(blocks)

    def test_a_text_that_goes_on_for_ever_is_cut(self, texts):
        whole = texts([b"a cat " + b"x" * 100_000])["token_ids"]
        again = texts([b"a cat " + b"x" * 50_000])["token_ids"]
        assert whole.numpy().tolist() == again.numpy().tolist()

    def test_long_words_are_not_kept(self):
        layer, _ = bounded(TOKENIZER.in_graph())
        ids = tf.function(
            lambda x: layer(x).to_tensor(-1), input_signature=[tf.TensorSpec([None], tf.string)]
        )
        line = "a " + "cat" * 100
        assert ids([line])[0].numpy().tolist() == TOKENIZER.encode([line])[0]
        assert layer.cache.table.size() == 1

    def test_a_full_cache_changes_nothing(self):
        lines = ["a cat sat on the mat with another cat", "what is not a cat", "a cat"]
        layer, _ = bounded(TOKENIZER.in_graph())
        layer.cache._most_words = 3
        ids = tf.function(
            lambda x: layer(x).to_tensor(-1), input_signature=[tf.TensorSpec([None], tf.string)]
        )
        for _ in range(3):
            for line in lines:
                assert ids([line])[0].numpy().tolist() == TOKENIZER.encode([line])[0]
        assert layer.cache.table.size() == 3  # and none after them

    @pytest.mark.parametrize("part", ["_maybe_initialized_tf", "cache"])
    def test_another_kerashub(self, part):
        layer = TOKENIZER.in_graph()

        class Other:
            """A tokenizer that was made anew in a release to come."""

            def __init__(self, vocabulary, merges):
                if part == "cache":
                    self._maybe_initialized_tf = lambda: None

            vocabulary, merges = layer.vocabulary, layer.merges

        message = f"with keras-hub {keras_hub.__version__}: .* no attribute '{part}'"
        with pytest.raises(ExportError, match=message):
            bounded(Other({}, []))

    def test_the_length_that_it_was_trained_with(self):
        model, tokenizer = text_model()
        model.preprocessor = d2v_tf.Data2VecTextClassifierPreprocessor(tokenizer, 6)
        (requests,) = text_requests(model, tokenizer, pairs=True)
        got = graph(requests)([b"a cat sat on a mat"], [b"a dog"])["token_ids"]
        first, second = TOKENIZER.encode(["a cat sat on a mat", "a dog"])
        start, end = TOKENIZER.start_token_id, TOKENIZER.end_token_id
        assert got.numpy().tolist() == [[start, first[0], end, end, second[0], end]]
