"""What is exported of a path or a model, by what it is asked, and what is refused at once."""

import os

import numpy as np
import pytest
import tensorflow as tf

import d2v_tf
from d2v_tf.exporting import export as export_module
from d2v_tf.exporting.export import requests_for
from d2v_tf.exporting.requests import ExportError
from d2v_tf.exporting.source import own_preprocessing, read_preprocessing
from d2v_tf.interop.huggingface import save_huggingface
from d2v_tf.interop.loading import preprocessor_for
from d2v_tf.interop.run_recipe import answers_pairs
from tests.exporting.models import (
    CONVERTER,
    PAIRS,
    TEXTS,
    TOKENIZER,
    audio_tagger,
    image_classifier,
    image_files,
    padded,
    recognizer,
    reference_speech,
    strings,
    text_model,
    wav,
    waveforms,
)
from tests.interop.tiny import make_backbone

MODELS = {
    "image": (image_classifier, {"image_bytes": strings(image_files())}),
    "audio": (audio_tagger, {"waveform": padded(waveforms())[0][:1]}),
    "ctc": (recognizer, {"waveform": padded(waveforms())[0][:1]}),
    "text": (text_model, {"text": strings(TEXTS)}),
}


def with_preprocessor(make, **options):
    """A task as a run leaves it: with what makes its input."""
    task, layer = make()
    task.preprocessor = preprocessor_for(task, layer)
    for name, value in options.items():
        setattr(task.preprocessor, name, value)
    return task


def ask(path, signature="serving_default", **inputs):
    served = tf.saved_model.load(str(path)).signatures[signature]
    return {
        k: v.numpy() for k, v in served(**{k: tf.constant(v) for k, v in inputs.items()}).items()
    }


def export(model, folder, **options):
    """Without requests for a server; returns the path and what was said."""
    lines = []
    path = d2v_tf.export(model, folder, warmup=False, say=lines.append, **options)
    return path, lines


@pytest.mark.parametrize("name", MODELS)
def test_a_preset_in_bfloat16(name, tmp_path):
    """Read from where a run leaves it; computed in bfloat16, and answered in float32."""
    make, inputs = MODELS[name]
    task = with_preprocessor(make)
    task.save_to_preset(str(tmp_path / "run" / "preset"))
    path, lines = export(tmp_path / "run", tmp_path / "to", version=7, precision="bfloat16")
    assert path == str(tmp_path / "to" / "7")
    kind = f"{type(task).__name__}, {task.count_params():,} parameters"
    about = {"image": "images", "text": "texts"}.get(name, "speech of at most 60 seconds")
    assert lines == [f"{tmp_path}/run: {kind}", f"asked about {about}"]
    logits = ask(path, **inputs)["logits"]
    (request, *_) = requests_for(task, own_preprocessing(task))
    tensors = {key: tf.constant(value) for key, value in inputs.items()}
    expected = task(request.to_inputs(**tensors), training=False).numpy()
    assert logits.dtype == np.float32
    assert 1e-4 < np.abs(logits - expected).max() / np.abs(expected).max() < 0.1


def test_a_recognizer_by_path(tmp_path):
    task = with_preprocessor(recognizer)
    task.save_to_preset(str(tmp_path / "run" / "preset"))
    path, _ = export(str(tmp_path / "run"), tmp_path / "to", max_seconds=0.05)
    batch, lengths = padded([w[:800] for w in waveforms()])
    answer = ask(path, "padded", waveform=batch, lengths=lengths)
    inputs = own_preprocessing(task)([w[:800] for w in waveforms()])
    np.testing.assert_allclose(answer["logits"], task(inputs), atol=1e-5)
    with open(os.path.join(path, "assets", "labels.txt")) as file:
        assert file.read().splitlines() == list(task.vocabulary)
    # What was read says how long a waveform may be, too.
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 800: 0.05 seconds"):
        ask(path, waveform=np.zeros((1, 801), "float32"))


def test_pairs_by_path(tmp_path):
    task = with_preprocessor(lambda: text_model(1, None), pairs=True)
    task.save_to_preset(str(tmp_path / "run" / "preset"))
    # The preset counts; the recipe is for runs that were written before it said so.
    (tmp_path / "run" / "config.yaml").write_text("modality: text\ntask: glue:SST-2\n")
    path, lines = export(tmp_path / "run", tmp_path / "to")
    assert lines[1:] == ["asked about pairs of texts"]
    first, second = (strings(column) for column in zip(*PAIRS, strict=True))
    inputs = task.preprocessor((first.astype(str).tolist(), second.astype(str).tolist()), None)
    expected = np.asarray(task(inputs, training=False))[:, 0]
    np.testing.assert_allclose(ask(path, first=first, second=second)["value"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("modality: text\ntask: glue:MRPC", True),
        ("modality: text\ntask: glue:SST-2", False),
        ("modality: text\ntask: glue:none", False),
        ("modality: text\ntask: classify\ndata: {columns: {second_sentence: b}}", True),
        ("modality: text\ntask: classify\ndata: {source: x}", False),
        # Files of others.
        ("modality: vision\ndata: {columns: {second_sentence: b}}", False),
        ("task: glue:MRPC", False),
        ("- a\n- list", False),
        ("modality: text\ndata: [1]\ntask: 3", False),
        ("modality: text\ndata: {columns: [a, b]}", False),
        ("a: [", False),
        ("\x00", False),
        ("", False),
    ],
)
def test_a_recipe_says_whether_texts_were_pairs(recipe, expected, tmp_path):
    (tmp_path / "preset").mkdir()
    (tmp_path / "config.yaml").write_text(recipe)
    model = text_model()[0]
    for path in (tmp_path, tmp_path / "preset"):
        assert bool(answers_pairs(model, str(path))) is expected
    assert answers_pairs(model, None) is None
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\xff")
    assert answers_pairs(model, str(tmp_path)) is None


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 0.0, -1.0])
def test_a_limit_that_is_none_is_refused_before_the_model_is_read(seconds, tmp_path):
    with pytest.raises(ExportError, match="max_seconds: .* is not between 0 and 86400"):
        export("/nowhere", tmp_path / "to", max_seconds=seconds)


class TestPreprocessing:
    def test_a_tasks_own_is_taken(self, tmp_path):
        for make, kind in (
            (image_classifier, d2v_tf.Data2VecImageConverter),
            (audio_tagger, d2v_tf.Data2VecAudioConverter),
            (text_model, d2v_tf.Data2VecTextTokenizer),
        ):
            assert own_preprocessing(make()[0]) is None
            assert isinstance(own_preprocessing(with_preprocessor(make)), kind)
        task = with_preprocessor(image_classifier)
        path, _ = export(task, tmp_path / "to")
        answer = ask(path, image_bytes=strings(image_files()[:1]))
        image = tf.io.decode_png(image_files()[0])
        np.testing.assert_allclose(answer["logits"], task(CONVERTER(image[None])), atol=1e-5)

    def test_of_another_folder(self, tmp_path):
        make_backbone("vision_per_block").save_to_preset(str(tmp_path / "bare"))
        with pytest.raises(ExportError, match="Received: None. .* --preprocessing"):
            export(tmp_path / "bare", tmp_path / "to")
        make_backbone("vision_per_block").save_to_preset(str(tmp_path / "whole"))
        CONVERTER.save_to_preset(str(tmp_path / "whole"))
        path, _ = export(tmp_path / "bare", tmp_path / "to", preprocessing=tmp_path / "whole")
        features = ask(path, image_bytes=strings(image_files()))
        assert features["embedding"].shape == (len(image_files()), 12)
        with pytest.raises(ExportError, match="neither settings of images or audio nor a tok"):
            read_preprocessing(str(tmp_path / "bare"))

    def test_a_tokenizer_alone(self, tmp_path):
        TOKENIZER.save(tmp_path)
        layer = read_preprocessing(str(tmp_path))
        assert dict(layer.vocabulary) == TOKENIZER.vocabulary

    def test_speech_without_settings(self, tmp_path):
        """Hugging Face's folder without preprocessor_config.json, and fairseq's file."""
        backbone = reference_speech()
        save_huggingface(backbone, str(tmp_path / "theirs"))
        assert not (tmp_path / "theirs" / "preprocessor_config.json").exists()
        path, _ = export(tmp_path / "theirs", tmp_path / "to")
        expected = backbone(d2v_tf.Data2VecAudioConverter()(waveforms()[:1]))
        hidden = ask(path, waveform=waveforms()[0][None])["hidden_states"]
        np.testing.assert_allclose(hidden, expected, atol=1e-5)

    def test_published_files(self, tmp_path):
        from tests.interop import published  # needs PyTorch

        speech, text = tmp_path / "audio.pt", tmp_path / "text.pt"
        published.write(
            speech,
            published.speech_state(published.speech_model()),
            fields={**published.SPEECH_FIELDS, "extractor_mode": "layer_norm"},
        )
        path, _ = export(speech, tmp_path / "speech")
        assert ask(path, "wav", wav_bytes=strings([wav(waveforms()[0])]))["embedding"].shape == (
            1,
            12,
        )
        size = TOKENIZER.vocabulary_size
        published.write(
            text,
            published.text_state(published.text_model(vocab_size=size)),
            fields=published.TEXT_FIELDS,
        )
        with pytest.raises(ExportError, match="needs a Data2VecTextTokenizer .* --preprocessing"):
            export(text, tmp_path / "text")
        TOKENIZER.save(tmp_path / "tokenizer")
        backbone = d2v_tf.load_backbone(text, verbose=False)
        (request,) = requests_for(backbone, read_preprocessing(str(tmp_path / "tokenizer")))
        assert list(request.specs) == ["text"]


class TestRefusals:
    def test_what_is_cheap_comes_first(self, tmp_path, monkeypatch):
        def load_model(*_):
            raise AssertionError("the model was read")

        monkeypatch.setattr(export_module, "load_model", load_model)
        (tmp_path / "to" / "3").mkdir(parents=True)
        (tmp_path / "file").write_text("")
        with pytest.raises(ExportError, match="to/3 exists. Servers do not read a version twice"):
            export("x", tmp_path / "to", version=3)
        with pytest.raises(ExportError, match=f"file/x cannot be written .{tmp_path}/file is no"):
            export("x", tmp_path / "file" / "x")
        with pytest.raises(ExportError, match="precision: 'half' is none of"):
            export("x", tmp_path / "to", precision="half")
        with pytest.raises(d2v_tf.errors.UserError, match="nowhere: does not exist"):
            export("x", tmp_path / "to", preprocessing=tmp_path / "nowhere")
        monkeypatch.setattr(os, "access", lambda *_: False)
        with pytest.raises(ExportError, match="to cannot be written .*permission denied"):
            export("x", tmp_path / "to")
        monkeypatch.undo()
        monkeypatch.setattr(export_module, "load_model", load_model)
        monkeypatch.setitem(os.sys.modules, "tensorflow_serving.apis", None)
        with pytest.raises(ExportError, match="tensorflow-serving-api, which is not installed"):
            d2v_tf.export("x", tmp_path / "to")
        assert sorted(os.listdir(tmp_path)) == ["file", "to"]

    def test_what_does_not_fit(self):
        vision, speech = make_backbone("vision_per_block"), reference_speech()
        for size in (None, (12, 13)):
            converter = d2v_tf.Data2VecImageConverter(image_size=size)
            with pytest.raises(ExportError, match=r"of image_size=.* image_size=\(12, 12\)"):
                requests_for(vision, converter)
        with pytest.raises(ExportError, match="pairs: only a text model"):
            requests_for(vision, CONVERTER, pairs=True)
        with pytest.raises(ExportError, match="max_seconds: only a speech model"):
            requests_for(vision, CONVERTER, max_seconds=10)
        with pytest.raises(ExportError, match="max_seconds: 0.001 is less than the 0.001875"):
            requests_for(speech, None, max_seconds=0.001)
        with pytest.raises(ExportError, match="needs a Data2VecAudioConverter"):
            requests_for(speech, CONVERTER)
        with pytest.raises(ExportError, match="must be a backbone, or a task on one"):
            requests_for(tf.Module(), CONVERTER)
        few = make_backbone("text", vocabulary_size=TOKENIZER.vocabulary_size - 1)
        with pytest.raises(
            ExportError, match="The tokenizer has .* tokens and <pad> at 1; the mod"
        ):
            requests_for(few, TOKENIZER.in_graph())
