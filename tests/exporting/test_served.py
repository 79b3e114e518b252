"""What is exported, loaded in a process that has only TensorFlow and tensorflow-text."""

import base64
import functools
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import tensorflow as tf
from serving.check import check_model
from serving.errors import ServingError
from serving.json_tensors import read_request, write_response
from serving.saved_models import LoadedVersion

import d2v_tf
from d2v_tf.evaluation.examples import Examples, open_examples
from d2v_tf.evaluation.features import extract_features
from d2v_tf.evaluation.predictions import predict_examples
from d2v_tf.evaluation.running import forward, input_maker
from d2v_tf.exporting.outputs import greedy_text
from d2v_tf.exporting.requests import ExportError
from d2v_tf.finetuning.decoding import GreedyDecoder
from tests.exporting.models import (
    NAMES,
    PAIRS,
    REFUSE_OURS,
    TEXTS,
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
from tests.finetuning.tiny_ctc import VOCABULARY

PROGRAM = (
    REFUSE_OURS
    + """
import pickle
import tensorflow as tf
import tensorflow_text

answers = []
loaded = {}
for folder, signature, inputs in pickle.load(open(sys.argv[1], "rb")):
    if folder not in loaded:
        loaded[folder] = tf.saved_model.load(folder)
    function = loaded[folder].signatures[signature]
    try:
        outputs = function(**{name: tf.constant(value) for name, value in inputs.items()})
        answers.append({name: value.numpy() for name, value in outputs.items()})
    except tf.errors.InvalidArgumentError as error:
        answers.append(str(error))
pickle.dump(answers, open(sys.argv[2], "wb"))
"""
)
MODELS = {
    "image": image_classifier,
    "audio": audio_tagger,
    "ctc": recognizer,
    "text": text_model,
    "similarity": lambda: text_model(1, None),
    "padding": lambda: (reference_speech(), d2v_tf.Data2VecAudioConverter()),
}


def good_requests():
    batch, lengths = padded(waveforms())
    files = strings([wav(w) for w in waveforms()])
    sentences = [strings(column) for column in zip(*PAIRS, strict=True)]
    pairs = dict(zip(("first", "second"), sentences, strict=True))
    return {
        ("image", "serving_default"): {"image_bytes": strings(image_files())},
        ("image", "features"): {"image_bytes": strings(image_files())},
        ("audio", "serving_default"): {"waveform": batch[:1]},
        ("audio", "padded"): {"waveform": batch, "lengths": lengths},
        ("audio", "features_padded"): {"waveform": batch, "lengths": lengths},
        ("ctc", "wav"): {"wav_bytes": files},
        ("ctc", "features_wav"): {"wav_bytes": files},
        ("text", "serving_default"): {"text": strings(TEXTS)},
        ("text", "features"): {"text": strings(TEXTS)},
        ("similarity", "serving_default"): pairs,
        ("padding", "serving_default"): {"waveform": batch[:1]},
        ("padding", "padded"): {"waveform": batch, "lengths": lengths},
    }


def bad_requests():
    """dict of (model, signature, what is wrong) to (inputs, part of the answer)."""
    batch, lengths = padded(waveforms())
    batch[1, 7] = np.nan
    long = np.zeros((1, 60 * 16_000 + 1), "float32")
    one, two = strings(["a"]), strings(["b", "c"])
    image, features = ("image", "serving_default"), ("image", "features")
    pairs = ("similarity", "serving_default")
    return {
        (*image, "bytes"): ({"image_bytes": strings([b"\xff\xfe no image"])}, "is no JPEG"),
        (*features, "cut"): ({"image_bytes": strings([image_files()[3][:200]])}, "JPEG"),
        ("audio", "serving_default", "empty"): (
            {"waveform": np.zeros((1, 0), "float32")},
            "example 0 has 0 samples",
        ),
        ("audio", "padded", "nan"): ({"waveform": batch, "lengths": lengths}, "example 1 has samp"),
        ("audio", "padded", "short"): (
            {"waveform": batch, "lengths": lengths[:2]},
            "waveform and lengths must have as many examples. Received: 3 and 2",
        ),
        ("padding", "serving_default", "long"): (
            {"waveform": long},
            "example 0 has 960001 samples, padding counted, and the model takes at most 960000: 60",
        ),
        ("ctc", "wav", "bytes"): ({"wav_bytes": strings([b"\xff\xfe" * 30])}, "is no WAV file"),
        ("ctc", "wav", "long"): (
            {"wav_bytes": strings([wav(waveforms()[0]), wav(long[0, : 60 * 8000 + 1], 8000)])},
            "example 1 has 480001 samples at 8000 Hz, and the model takes at most 60 seconds",
        ),
        ("text", "serving_default", "empty"): (
            {"text": strings(["a cat", ""])},
            "example 1 is an empty text",
        ),
        ("text", "features", "none"): ({"text": np.array([], object)}, "at least one example"),
        (*pairs, "bytes"): (
            {"first": strings(["a", b"\xff"]), "second": two},
            "example 1 is not UTF-8",
        ),
        (*pairs, "first"): ({"first": two, "second": one}, "first and second must have as many"),
        (*pairs, "second"): ({"first": one, "second": two}, "Received: 1 and 2"),
    }


@pytest.fixture(scope="module")
def models():
    return {name: make() for name, make in MODELS.items()}


@pytest.fixture(scope="module")
def exported(models, tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    return {
        name: d2v_tf.export(*model[:1], root / name, model[1], pairs=name == "similarity")
        for name, model in models.items()
    }


@pytest.fixture(scope="module")
def loaded(exported):
    """Function of a model's name to what the small server has in memory of it."""
    return functools.cache(lambda name: LoadedVersion(exported[name]))


@pytest.fixture(scope="module")
def answers(exported, tmp_path_factory):
    """dict of (model, signature) to the answer to a good request, and to the error of a bad one."""
    folder = tmp_path_factory.mktemp("answers")
    asked = list(good_requests().items())
    asked += [((m, s), inputs) for (m, s, _), (inputs, _) in bad_requests().items()]
    with open(folder / "requests", "wb") as file:
        pickle.dump([(exported[m], s, inputs) for (m, s), inputs in asked], file)
    command = [sys.executable, "-c", PROGRAM, folder / "requests", folder / "answers"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with open(folder / "answers", "rb") as file:
        said = pickle.load(file)
    good = len(good_requests())
    return dict(zip(good_requests(), said[:good], strict=True)), dict(
        zip(bad_requests(), said[good:], strict=True)
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Folders of the same images and recordings, and the texts, as the evaluation reads them."""
    root = tmp_path_factory.mktemp("files")
    for folder in ("image", "audio"):
        (root / folder).mkdir()
    for i, file in enumerate(image_files()):
        (root / "image" / f"{i}.png").write_bytes(file)
    for i, wave in enumerate(waveforms()):
        soundfile.write(root / "audio" / f"{i}.wav", wave, 16_000, subtype="FLOAT")
        (root / "audio" / f"{i}_16.wave").write_bytes(wav(wave))
    return root


def by_hand(model, raw):
    """Logits as `tools/evaluate.py` computes them, without padding."""
    task, preprocessing = model
    make = input_maker(preprocessing, task.backbone)
    if not isinstance(preprocessing, d2v_tf.Data2VecAudioConverter):
        return forward(task)(make(raw))
    return np.concatenate([forward(task)(make([one])) for one in raw])


def images_of(files):
    backbone = image_classifier()[0].backbone
    examples = open_examples(backbone, f"folder:{files}/image")
    return examples, [examples.read(i) for i in range(len(examples.names))]


def assert_same(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_classes_of_images(models, answers, files):
    answer = answers[0]["image", "serving_default"]
    examples, raw = images_of(files)
    logits = by_hand(models["image"], raw)
    assert_same(answer["logits"], logits)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert_same(answer["probabilities"], probabilities)
    said = [one["label"] for _, one in predict_examples(*models["image"], examples)]
    assert [label.decode() for label in answer["label"]] == said and len(set(said)) > 1


def test_features_of_images(models, answers, files):
    task, converter = models["image"]
    examples, raw = images_of(files)
    answer = answers[0]["image", "features"]
    _, means = extract_features(task.backbone, converter, examples)
    assert_same(answer["embedding"], means)
    hidden = [np.asarray(task.backbone(converter(image[None])))[0] for image in raw]
    assert_same(answer["hidden_states"], hidden)


def test_tags_of_recordings(models, answers):
    logits = by_hand(models["audio"], waveforms())
    for signature in ("serving_default", "padded"):
        answer = answers[0]["audio", signature]
        expected = logits[: len(answer["logits"])]
        assert_same(answer["logits"], expected)
        assert_same(answer["probabilities"], 1 / (1 + np.exp(-expected)))
        tags = [
            [n.encode() if x > 0 else b"" for n, x in zip(NAMES, row, strict=True)]
            for row in expected
        ]
        assert answer["tags"].tolist() == tags
    assert 0 < np.sum(logits > 0) < logits.size


def test_features_of_recordings_leave_out_padding(models, answers):
    task, converter = models["audio"]
    examples = Examples("x", ["x"] * 3, waveforms().__getitem__, np.ones(3))
    answer = answers[0]["audio", "features_padded"]
    _, means = extract_features(task.backbone, converter, examples)
    assert_same(answer["embedding"], means)
    _, frames = extract_features(task.backbone, converter, examples, per_position=True)
    assert answer["lengths"].tolist() == [len(f) for f in frames]
    for row, length, expected in zip(
        answer["hidden_states"], answer["lengths"], frames, strict=True
    ):
        assert_same(row[:length], expected)


def test_text_of_recordings(models, answers, files):
    task, converter = models["ctc"]
    answer = answers[0]["ctc", "wav"]
    raw = [soundfile.read(files / "audio" / f"{i}_16.wave", dtype="float32")[0] for i in range(3)]
    inputs = converter(raw)
    logits, lengths = forward(task)(dict(inputs)), task.frame_lengths(inputs)
    assert answer["lengths"].tolist() == np.asarray(lengths).tolist()
    for i, length in enumerate(answer["lengths"]):
        assert_same(answer["logits"][i, :length], logits[i, :length])
    texts = GreedyDecoder(task.vocabulary)(logits, lengths)
    assert [text.decode() for text in answer["text"]] == texts and any(texts)
    assert_same(answer["probabilities"].sum(axis=-1), np.ones(logits.shape[:2]))


def test_classes_and_features_of_texts(models, answers):
    task, tokenizer = models["text"]
    answer = answers[0]["text", "serving_default"]
    logits = by_hand(models["text"], TEXTS)
    assert_same(answer["logits"], logits)
    assert [label.decode() for label in answer["label"]] == [
        NAMES[i] for i in logits.argmax(axis=1)
    ]
    examples = Examples("x", TEXTS, TEXTS.__getitem__, np.ones(len(TEXTS)))
    _, means = extract_features(task.backbone, tokenizer, examples)
    assert_same(answers[0]["text", "features"]["embedding"], means)


def test_values_of_pairs(models, answers):
    answer = answers[0]["similarity", "serving_default"]
    assert set(answer) == {"logits", "value"}
    assert_same(answer["value"], by_hand(models["similarity"], PAIRS)[:, 0])


def test_a_backbone_that_sees_its_padding_is_given_the_same(models, answers):
    backbone, converter = models["padding"]
    alone, several = (answers[0]["padding", s] for s in ("serving_default", "padded"))
    assert_same(alone["hidden_states"], np.asarray(backbone(converter(waveforms()[:1]))))
    assert_same(several["hidden_states"], np.asarray(backbone(converter(waveforms()))))


@pytest.mark.parametrize("request_of", bad_requests(), ids="-".join)
def test_bad_requests_are_refused(answers, request_of):
    said, (_, expected) = answers[1][request_of], bad_requests()[request_of]
    assert isinstance(said, str) and expected in said, said


@pytest.mark.parametrize(
    "asked",
    [
        ("image", "serving_default"),
        ("ctc", "wav"),
        ("text", "serving_default"),
        ("similarity", "serving_default"),
    ],
    ids="-".join,
)
def test_a_session_answers_the_same(exported, answers, asked):
    """TensorFlow Serving runs the graph by a session, with the initializers that it finds there."""
    model, signature = asked
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        graph = tf.compat.v1.saved_model.load(session, ["serve"], exported[model])
        names = graph.signature_def[signature]
        fetched = {name: info.name for name, info in names.outputs.items()}

        def run(requests):
            return session.run(fetched, {names.inputs[k].name: v for k, v in requests.items()})

        for name, value in run(good_requests()[asked]).items():
            expected = answers[0][asked][name]
            if value.dtype.kind == "f":
                assert_same(value, expected)
            else:
                assert value.tolist() == expected.tolist()
        bad = [inputs for (m, s, _), (inputs, _) in bad_requests().items() if (m, s) == asked]
        for inputs in bad:
            with pytest.raises(tf.errors.InvalidArgumentError):
                run(inputs)
        assert bad


@pytest.mark.parametrize("name", MODELS)
def test_a_server_finds_nothing_wrong(exported, name):
    """Loaded and warmed up with what was written for it, as `tools/export.py --check` does."""
    lines = []
    assert check_model(os.path.dirname(exported[name]), say=lines.append) == []
    signatures = len([line for line in lines if " -> " in line])
    assert signatures == (6 if name in ("audio", "ctc", "padding") else 2)
    assert lines[-1] == f"warm-up: {signatures} requests replayed"


@pytest.mark.parametrize("format_of", ["instances", "inputs"])
@pytest.mark.parametrize("asked", good_requests(), ids="-".join)
def test_json_is_answered_the_same(loaded, answers, asked, format_of):
    """As the small server reads, runs and writes it."""
    model, signature = asked
    columns = {name: as_json(name, value) for name, value in good_requests()[asked].items()}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    body = json.loads(json.dumps({format_of: rows if format_of == "instances" else columns}))
    inputs, is_rows = read_request(body, loaded(model).signature(signature))
    answer = json.loads(json.dumps(write_response(loaded(model).run(signature, inputs), is_rows)))
    assert is_rows == (format_of == "instances")
    expected = answers[0][asked]
    if is_rows:
        said = {name: [row[name] for row in answer["predictions"]] for name in expected}
    else:
        said = answer["outputs"]
    assert set(said) == set(expected)
    for name, value in expected.items():
        if value.dtype.kind == "O":
            assert said[name] == np.vectorize(bytes.decode, otypes=[object])(value).tolist()
        else:
            assert_same(said[name], value)


def as_json(name, value):
    if value.dtype.kind != "O":
        return value.tolist()
    if name.endswith("_bytes"):
        return [{"b64": base64.b64encode(item).decode()} for item in value]
    return [item.decode() for item in value]


def test_waveforms_of_several_lengths_need_padding(loaded):
    signature = loaded("audio").signature("")
    rows = {"instances": [wave.tolist() for wave in waveforms()]}
    with pytest.raises(ServingError, match="waveform: its lists are not all equally long"):
        read_request(rows, signature)


def test_labels_stand_in_the_assets_and_versions_are_not_overwritten(models, exported):
    for name, labels in (("image", NAMES), ("ctc", VOCABULARY)):
        with open(os.path.join(exported[name], "assets", "labels.txt")) as file:
            assert file.read() == "".join(f"{label}\n" for label in labels)
    assert not os.path.exists(os.path.join(exported["padding"], "assets", "labels.txt"))
    assert os.listdir(os.path.dirname(exported["image"])) == ["1"]
    parent = os.path.dirname(exported["padding"])
    with pytest.raises(ExportError, match="padding/1 exists. Servers do not read a version twice"):
        d2v_tf.export(*models["padding"][:1], parent, models["padding"][1], version=1)


def test_greedy_text_is_that_of_the_decoder():
    vocabulary = ("<pad>", "<unk>", "|", "a", "é", "<s>")
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(40, 20, 6)).astype("float32")
    lengths = rng.integers(0, 21, 40)
    got = greedy_text(tf.constant(logits), lengths, vocabulary)
    expected = GreedyDecoder(vocabulary)(logits, lengths)
    assert [text.decode() for text in got.numpy()] == expected and "" in expected
