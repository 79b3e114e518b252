"""What is exported, loaded in a process that has only TensorFlow and tensorflow-text."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import tensorflow as tf

import d2v_tf
from d2v_tf.evaluation.examples import Examples, open_examples
from d2v_tf.evaluation.features import extract_features
from d2v_tf.evaluation.predictions import predict_examples
from d2v_tf.evaluation.running import forward, input_maker
from d2v_tf.exporting.outputs import greedy_text
from d2v_tf.exporting.requests import ExportError
from d2v_tf.finetuning.decoding import GreedyDecoder
from d2v_tf.interop.run_recipe import trained_on_pairs
from tests.exporting.models import (
    NAMES,
    REFUSE_OURS,
    TEXTS,
    audio_tagger,
    image_classifier,
    image_files,
    padded,
    recognizer,
    reference_speech,
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
PAIRS = [("a cat", "dogs bark"), ("the fish", "a dog sat on a mat at night")]


def strings(values):
    return np.array([v if isinstance(v, bytes) else v.encode() for v in values], object)


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
    batch, lengths = padded(waveforms())
    batch[1, 7] = np.nan
    return {
        ("image", "serving_default"): {"image_bytes": strings([b"\xff\xfe no image"])},
        ("image", "features"): {"image_bytes": strings([image_files()[3][:200]])},
        ("audio", "serving_default"): {"waveform": np.zeros((1, 0), "float32")},
        ("audio", "padded"): {"waveform": batch, "lengths": lengths},
        ("ctc", "wav"): {"wav_bytes": strings([b"\xff\xfe" * 30])},
        ("text", "serving_default"): {"text": strings(["a cat", ""])},
        ("text", "features"): {"text": np.array([], object)},
        ("similarity", "serving_default"): {
            "first": strings(["a", b"\xff"]),
            "second": strings(["b", "c"]),
        },
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
def answers(exported, tmp_path_factory):
    """dict of (model, signature) to the answer to a good request, and to the error of a bad one."""
    folder = tmp_path_factory.mktemp("answers")
    asked = [*good_requests().items(), *bad_requests().items()]
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
    said = answers[1][request_of]
    assert isinstance(said, str) and len(said) > 10, said


@pytest.mark.parametrize(
    "asked",
    [("image", "serving_default"), ("ctc", "wav"), ("text", "serving_default")],
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
        with pytest.raises(tf.errors.InvalidArgumentError):
            run(bad_requests()[asked])


def test_labels_stand_in_the_assets_and_versions_are_not_overwritten(models, exported):
    for name, labels in (("image", NAMES), ("ctc", VOCABULARY)):
        with open(os.path.join(exported[name], "assets", "labels.txt")) as file:
            assert file.read() == "".join(f"{label}\n" for label in labels)
    assert not os.path.exists(os.path.join(exported["padding"], "assets", "labels.txt"))
    assert os.listdir(os.path.dirname(exported["image"])) == ["1"]
    parent = os.path.dirname(exported["padding"])
    with pytest.raises(ExportError, match="padding/1 exists. Servers do not read a version twice"):
        d2v_tf.export(*models["padding"][:1], parent, models["padding"][1], version=1)


def test_a_preset_in_bfloat16(models, files, tmp_path):
    """Read from where a run leaves it; computed in bfloat16, and answered in float32."""
    (task, converter), (_, raw) = models["image"], images_of(files)
    task.save_to_preset(str(tmp_path / "run" / "preset"))
    converter.save_to_preset(str(tmp_path / "run" / "preset"))
    lines = []
    path = d2v_tf.export(
        tmp_path / "run", tmp_path / "to", version=7, precision="bfloat16", say=lines.append
    )
    assert path == str(tmp_path / "to" / "7")
    assert lines == [f"{tmp_path}/run: Data2VecImageClassifier, {task.count_params():,} parameters"]
    served = tf.saved_model.load(path).signatures["serving_default"]
    answer = served(image_bytes=tf.constant(image_files()))
    expected = by_hand(models["image"], raw)
    difference = np.abs(answer["logits"].numpy() - expected)
    assert answer["logits"].dtype == tf.float32
    assert 1e-4 < difference.max() < 0.1 * np.abs(expected).max()


def test_greedy_text_is_that_of_the_decoder():
    vocabulary = ("<pad>", "<unk>", "|", "a", "é", "<s>")
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(40, 20, 6)).astype("float32")
    lengths = rng.integers(0, 21, 40)
    got = greedy_text(tf.constant(logits), lengths, vocabulary)
    expected = GreedyDecoder(vocabulary)(logits, lengths)
    assert [text.decode() for text in got.numpy()] == expected and "" in expected


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("task: glue:MRPC", True),
        ("task: glue:SST-2", False),
        ("task: classify\ndata: {columns: {sentence: a, second_sentence: b}}", True),
        ("task: classify\ndata: {source: x}", False),
    ],
)
def test_a_run_says_whether_its_texts_were_pairs(recipe, expected, tmp_path):
    (tmp_path / "preset").mkdir()
    (tmp_path / "config.yaml").write_text(recipe)
    assert trained_on_pairs(tmp_path) is trained_on_pairs(tmp_path / "preset") is expected
