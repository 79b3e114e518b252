"""Measuring and using models on single files, against what the training's own evaluation says."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from rich.console import Console
from sklearn.metrics import matthews_corrcoef

import d2v_tf
from d2v_tf.data.labelled_sources import Columns
from d2v_tf.data.reading import DataError
from d2v_tf.data.tokenization import train_tokenizer
from d2v_tf.evaluation.examples import open_examples, open_glue_examples
from d2v_tf.evaluation.features import extract_features, probe_backbone
from d2v_tf.evaluation.measure import measure
from d2v_tf.evaluation.predictions import predict_examples
from d2v_tf.evaluation.reports import print_measurement, write_measurement
from d2v_tf.finetuning.preprocessors import Data2VecImageClassifierPreprocessor
from tests.data.images import write_tree
from tests.interop.tiny import SPEECH, make_backbone

CONVERTER = d2v_tf.Data2VecImageConverter(image_size=(12, 12), scale=1 / 127.5, offset=-1.0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    write_tree(root, 10, classes=("cat", "dog", "fish"))
    return root


@pytest.fixture(scope="module")
def classifier():
    backbone = make_backbone("vision_per_block")
    names = ("fish", "dog", "cat")  # in another order than the folders
    return d2v_tf.Data2VecImageClassifier(backbone, 3, class_names=names)


def pixels_of(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), "float32")[None]


def logits_by_hand(classifier, path):
    return np.asarray(classifier(CONVERTER(pixels_of(path))))[0]


def test_scores_and_worst_examples_of_a_classifier(classifier, photos):
    examples = open_examples(classifier.backbone, f"folder:{photos}")
    found = measure(classifier, CONVERTER, examples, num_worst=2, batch_size=3)
    right, losses = [], {}
    for path in sorted(photos.rglob("*.png")):
        logits = logits_by_hand(classifier, path)
        true = classifier.class_names.index(path.parent.name)
        right.append(logits.argmax() == true)
        losses[str(path)] = -np.log(np.exp(logits[true]) / np.exp(logits).sum())
    assert found.scores["accuracy"] == np.mean(right) and found.num_examples == 10
    low, high = found.intervals["accuracy"]
    assert low <= np.mean(right) <= high
    worst = sorted(losses, key=losses.get)[::-1][:2]
    assert [row[0] for row in found.worst] == worst
    assert found.worst[0][3] == pytest.approx(losses[worst[0]], rel=1e-3)
    assert found.confusion.sum() == 10 and np.trace(found.confusion) == sum(right)


def test_a_preprocessor_of_the_model_is_not_applied_a_second_time(classifier, photos):
    examples = open_examples(classifier.backbone, f"folder:{photos}")
    expected = measure(classifier, CONVERTER, examples).worst
    with_it = d2v_tf.Data2VecImageClassifier.from_config(classifier.get_config())
    with_it.set_weights(classifier.get_weights())
    with_it.preprocessor = Data2VecImageClassifierPreprocessor(CONVERTER)
    assert measure(with_it, CONVERTER, examples).worst == expected


def test_what_is_written(classifier, photos, tmp_path):
    examples = open_examples(classifier.backbone, f"folder:{photos}")
    found = measure(classifier, CONVERTER, examples)
    paths = write_measurement(found, str(tmp_path / "report"))
    content = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    assert content["scores"] == found.scores and len(content["worst"]) == 10
    assert content["class_names"] == ["fish", "dog", "cat"]
    with Image.open(paths[1]) as picture:
        assert min(picture.size) > 300


def test_predictions_name_class_and_probability(classifier, photos):
    examples = open_examples(classifier.backbone, f"folder:{photos}")
    said = dict(predict_examples(classifier, CONVERTER, examples, batch_size=4))
    for path in photos.rglob("*.png"):
        logits = logits_by_hand(classifier, path)
        probabilities = np.exp(logits) / np.exp(logits).sum()
        assert said[str(path)]["label"] == classifier.class_names[probabilities.argmax()]
        assert said[str(path)]["probability"] == pytest.approx(probabilities.max(), rel=1e-3)


def test_features_of_images_are_means_of_patches(photos):
    backbone = make_backbone("vision_per_block")
    examples = open_examples(backbone, f"folder:{photos}")
    indices, means = extract_features(backbone, CONVERTER, examples, batch_size=4)
    assert (indices == np.arange(10)).all()
    _, patches = extract_features(backbone, CONVERTER, examples, per_position=True)
    hidden = np.asarray(backbone(CONVERTER(pixels_of(examples.names[7]))))[0, 1:]
    np.testing.assert_allclose(patches[7], hidden, atol=1e-4)
    np.testing.assert_allclose(means[7], hidden.mean(axis=0), atol=1e-4)


def test_features_of_recordings_leave_out_padding_and_keep_the_order(tmp_path):
    rng = np.random.default_rng(0)
    waves = [rng.normal(size=n).astype("float32") * 0.1 for n in (900, 300, 600)]
    for i, wave in enumerate(waves):
        soundfile.write(tmp_path / f"{i}.wav", wave, 16000)
    backbone = d2v_tf.Data2VecSpeechBackbone(**SPEECH)
    converter = d2v_tf.Data2VecAudioConverter()
    examples = open_examples(backbone, f"folder:{tmp_path}")
    _, frames = extract_features(backbone, converter, examples, per_position=True)
    assert [len(f) for f in frames] == [backbone.feature_lengths(len(w)) for w in waves]
    alone = np.asarray(backbone(converter([examples.read(1)])))[0]
    np.testing.assert_allclose(frames[1], alone, atol=1e-4)


def test_a_file_by_its_path(classifier, photos):
    path = str(next(photos.rglob("*.png")))
    assert (
        predict_examples(classifier, CONVERTER, open_examples(classifier.backbone, path))[0][0]
        == path
    )


def test_texts_of_a_table(tmp_path):
    texts = ["a cat sat on a mat", "dogs bark at night", "the fish", "a dog and a cat"]
    tokenizer = train_tokenizer(texts, 261 + 20)
    rows = "\n".join(f"{text}\t{i % 2}" for i, text in enumerate(texts))
    (tmp_path / "t.tsv").write_text(f"sentence\tlabel\n{rows}\n")
    backbone = make_backbone(
        "text", vocabulary_size=tokenizer.vocabulary_size, max_sequence_length=12
    )
    task = d2v_tf.Data2VecTextClassifier(backbone, 2, class_names=("0", "1"))
    examples = open_examples(backbone, f"table:{tmp_path}/t.tsv", columns=Columns())
    found = measure(task, tokenizer.in_graph(), examples, batch_size=3)
    right = []
    for i, text in enumerate(texts):
        ids = [tokenizer.start_token_id, *tokenizer.encode([text])[0][:10], tokenizer.end_token_id]
        right.append(np.asarray(task({"token_ids": np.array([ids])})).argmax() == i % 2)
    assert found.scores["accuracy"] == np.mean(right)


def write_glue(folder, rows):
    folder.mkdir(parents=True)
    for split in ("train", "dev"):
        (folder / f"{split}.tsv").write_text("\n".join("\t".join(row) for row in rows) + "\n")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a cat sat on a mat", "dogs bark at night"], 275)


def text_model(tokenizer, **arguments):
    backbone = make_backbone(
        "text", vocabulary_size=tokenizer.vocabulary_size, max_sequence_length=24
    )
    return d2v_tf.Data2VecTextClassifier(backbone, **arguments)


def test_a_task_of_glue_by_its_own_labels_and_metrics(tokenizer, tmp_path):
    rows = [("x", str(i % 2), "", f"a cat sat {'on a mat ' * i}") for i in range(6)]
    write_glue(tmp_path / "CoLA", rows)
    task = text_model(tokenizer, num_classes=2, class_names=("unacceptable", "acceptable"))
    examples, metrics = open_glue_examples("CoLA", f"folder:{tmp_path}")
    found = measure(task, tokenizer.in_graph(), examples, metrics=metrics)
    said = [
        np.asarray(task({"token_ids": np.array([ids])})).argmax()
        for ids in (
            [
                tokenizer.start_token_id,
                *tokenizer.encode([row[3].strip()])[0][:22],
                tokenizer.end_token_id,
            ]
            for row in rows
        )
    ]
    expected = matthews_corrcoef([i % 2 for i in range(6)], said)
    assert found.scores == {"matthews": pytest.approx(expected)}
    assert set(found.intervals) == {"matthews"}


def test_glues_own_number_is_the_mean_of_a_tasks_metrics(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("d2v_tf.evaluation.measure.DRAWS", 40)
    rows = [("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")]
    rows += [(str(int(i > 2)), "1", "2", f"a cat {i}", "a mat " * i) for i in range(8)]
    write_glue(tmp_path / "MRPC", rows)
    task = text_model(tokenizer, num_classes=2, class_names=("not_equivalent", "equivalent"))
    examples, metrics = open_glue_examples("MRPC", f"folder:{tmp_path}")
    found = measure(task, tokenizer.in_graph(), examples, metrics=metrics)
    assert list(found.scores) == list(found.intervals) == ["accuracy", "f1", "score"]
    assert found.scores["score"] == (found.scores["accuracy"] + found.scores["f1"]) / 2
    low, high = found.intervals["score"]
    assert low <= found.scores["score"] <= high and low < high
    assert "score" not in measure(task, tokenizer.in_graph(), examples).scores


def test_scores_are_numbers_and_not_classes(tokenizer, tmp_path):
    table = "\n".join(
        f"a cat {'sat ' * i}\t{score}" for i, score in enumerate((5.0, 4.75, 2.4, 0.0))
    )
    (tmp_path / "t.tsv").write_text(f"sentence\tlabel\n{table}\n")
    task = text_model(tokenizer, num_classes=1)
    columns = Columns(regression=True)
    examples = open_examples(task.backbone, f"table:{tmp_path}/t.tsv", columns=columns)
    found = measure(task, tokenizer.in_graph(), examples, num_worst=4)
    assert {row[1] for row in found.worst} == {"5", "4.75", "2.4", "0"}
    examples = open_examples(task.backbone, f"table:{tmp_path}/t.tsv", columns=Columns())
    with pytest.raises(DataError, match="has classes, and the model gives a number"):
        measure(task, tokenizer.in_graph(), examples)


def test_a_text_by_itself_and_what_is_no_file(tokenizer, classifier, tmp_path):
    (tmp_path / "note.txt").write_text("a cat sat")
    task = text_model(tokenizer, num_classes=2)
    for spec in ("a cat sat", f"{tmp_path}/note.txt"):
        examples = open_examples(task.backbone, spec)
        assert examples.names == [spec] and examples.read(0) == "a cat sat"
        assert predict_examples(task, tokenizer.in_graph(), examples)[0][0] == spec
    with pytest.raises(DataError, match="nothere.jpg is neither a file nor a source, such as"):
        open_examples(classifier.backbone, "nothere.jpg")


def test_transcripts_with_letters_that_the_model_does_not_know(tmp_path):
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).normal(size=900), 16000)
    (tmp_path / "list.tsv").write_text(".\na.wav\t900\n")
    (tmp_path / "list.wrd").write_text("A b\n")
    task = d2v_tf.Data2VecSpeechCTC(make_backbone("speech_invariant"), ("<pad>", "|", "A"))
    examples = open_examples(task.backbone, f"manifest:{tmp_path}/list.tsv")
    found = measure(task, d2v_tf.Data2VecAudioConverter(), examples)
    assert "the transcripts have letters that the model does not know: b" in found.notes
    (path,) = write_measurement(found, str(tmp_path / "report"))
    (worst,) = json.loads(Path(path).read_text())["worst"]
    assert worst["name"].endswith("a.wav") and worst["word_errors"] >= 1
    console = Console(file=io.StringIO(), width=200)
    print_measurement(found, console)
    assert "word errors" in console.file.getvalue() and "loss" not in console.file.getvalue()


def test_too_few_examples_for_a_probe(tmp_path):
    write_tree(tmp_path, 5)
    backbone = make_backbone("vision_per_block")
    examples = open_examples(backbone, f"folder:{tmp_path}")
    train = dataclasses.replace(examples, labels=np.array([0, 0, 0, 0, 1]))
    with pytest.raises(DataError, match="needs examples of two classes or more"):
        probe_backbone(backbone, CONVERTER, train, examples)


def test_a_probe_of_features_that_tell_the_classes_apart(tmp_path):
    for split, number in (("train", 12), ("test", 6)):
        for name, level in (("dark", 40), ("light", 210)):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(number):
                noise = np.random.default_rng(i).integers(0, 30, (12, 12, 3))
                Image.fromarray((level + noise).astype("uint8")).save(folder / f"{i}.png")
    backbone = make_backbone("vision_per_block")
    train, test = (open_examples(backbone, f"folder:{tmp_path}/{s}") for s in ("train", "test"))
    scores = probe_backbone(backbone, CONVERTER, train, test)
    assert scores == {"knn": 1.0, "linear": 1.0, "train_examples": 24, "test_examples": 12}


def test_unreadable_files_are_named_and_counted(classifier, photos, tmp_path):
    write_tree(tmp_path, 6)
    (tmp_path / "cat" / "bad.png").write_bytes(b"no picture")
    examples = open_examples(classifier.backbone, f"folder:{tmp_path}")
    with pytest.raises(DataError, match="1 of 7 examples .* could not be read .first: .*bad.png"):
        measure(classifier, CONVERTER, examples)
    warned = []
    found = measure(classifier, CONVERTER, examples, max_bad=0.2, warn=warned.append)
    assert found.num_examples == 6 and len(warned) == 1 and "bad.png is skipped" in warned[0]


def test_labels_that_do_not_fit(classifier, tmp_path):
    write_tree(tmp_path, 4, classes=("cat", "horse"))
    examples = open_examples(classifier.backbone, f"folder:{tmp_path}")
    with pytest.raises(DataError, match="1 classes that the model does not know: horse"):
        measure(classifier, CONVERTER, examples)
    flat = tmp_path / "flat"
    write_tree(flat, 2, classes=(".",))
    with pytest.raises(DataError, match="has no labels to measure with"):
        measure(classifier, CONVERTER, open_examples(classifier.backbone, f"folder:{flat}"))


def test_a_model_without_preprocessing(classifier, photos):
    examples = open_examples(classifier.backbone, f"folder:{photos}")
    with pytest.raises(DataError, match="came without image or audio settings"):
        measure(classifier, None, examples)
