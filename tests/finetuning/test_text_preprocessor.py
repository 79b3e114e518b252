"""Strings to a classifier's inputs: the ids of the training data's route, whole tasks of them."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_array_equal

from d2v_tf.backbones.text import Data2VecTextBackbone
from d2v_tf.data.glue import open_glue
from d2v_tf.data.text_labelled import evaluation_dataset, tokenize
from d2v_tf.data.tokenization import train_tokenizer
from d2v_tf.finetuning.text_preprocessor import Data2VecTextClassifierPreprocessor
from tests.data.texts import TOPICS

ONE, TWO = ["a b", " the same thing \n", ""], ["c", "several words of a long text here", "d"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TOPICS[:20], 400)


@pytest.fixture
def preprocessor(tokenizer):
    return Data2VecTextClassifierPreprocessor(tokenizer.in_graph(), sequence_length=12)


def expected_rows(tokenizer, *columns):
    """`<s> a </s>` and `<s> a </s></s> b </s>` in 12 tokens, of texts that need no cutting."""
    rows = np.ones((len(columns[0]), 12), "int32")
    for row, texts in zip(rows, zip(*columns, strict=True), strict=True):
        parts = [tokenizer.encode([text.strip()])[0] for text in texts]
        ids = [0, *parts[0], 2]
        if len(parts) == 2:
            ids += [2, *parts[1], 2]
        row[: len(ids)] = ids
    return rows


@pytest.mark.parametrize("task", ["CoLA", "STS-B", "WNLI", "RTE"])
def test_ids_are_those_of_the_training_data(shared_data, tmp_path, tokenizer, task):
    with tarfile.open(shared_data / "glue.tar.gz") as tar:
        members = [m for m in tar.getmembers() if m.name.startswith(f"glue/{task}/")]
        tar.extractall(tmp_path, members=members, filter="data")
    labelled = open_glue(task, f"folder:{tmp_path}/glue", "train")
    tokenized = tokenize(labelled, tokenizer, 50)
    assert 0 < tokenized.num_cut < labelled.num_examples
    ((inputs, _),) = evaluation_dataset(tokenized, batch_size=10_000).as_numpy_iterator()
    preprocessor = Data2VecTextClassifierPreprocessor(tokenizer.in_graph(), sequence_length=50)
    texts = labelled.sentences
    if labelled.second_sentences is not None:
        texts = (texts, labelled.second_sentences)
    got = preprocessor(texts)
    assert set(got) == {"token_ids", "padding_mask"}
    assert_array_equal(got["token_ids"], inputs["token_ids"])
    assert_array_equal(got["padding_mask"], inputs["padding_mask"])


def test_texts_come_alone_in_lists_and_in_pairs(preprocessor, tokenizer):
    short = ["a b", " the\n", ""]
    expected = expected_rows(tokenizer, short)
    for texts in (short, np.array(short), np.array(short, object), tf.constant(short)):
        assert_array_equal(preprocessor(texts)["token_ids"], expected)
    single = preprocessor("a b")
    assert_array_equal(single["token_ids"], expected[0])
    assert_array_equal(single["padding_mask"], expected[0] != 1)
    others = ["c", "d", "e"]
    expected = expected_rows(tokenizer, short, others)
    for pair in ((short, others), (tf.constant(short), tf.constant(others))):
        assert_array_equal(preprocessor(pair)["token_ids"], expected)
    assert_array_equal(preprocessor(("a b", "c"))["token_ids"], expected[0])


def test_labels_and_weights_pass_through(preprocessor):
    inputs, labels = preprocessor(ONE, np.array([0, 1, 1]))
    assert_array_equal(labels, [0, 1, 1])
    pair, labels, weights = preprocessor((ONE, TWO), np.array([0, 1, 1]), np.ones(3))
    assert_array_equal(labels, [0, 1, 1])
    assert_array_equal(weights, np.ones(3))
    assert_array_equal(pair["token_ids"], preprocessor((ONE, TWO))["token_ids"])
    both = preprocessor((ONE, np.array([2, 1, 0])))  # as a data set's element
    assert_array_equal(both[0]["token_ids"], inputs["token_ids"])
    assert_array_equal(both[1], [2, 1, 0])


def test_it_is_mapped_over_a_dataset(preprocessor):
    dataset = tf.data.Dataset.from_tensor_slices(((ONE, TWO), [0, 1, 1]))
    ((inputs, labels),) = dataset.batch(3).map(preprocessor)
    assert inputs["token_ids"].shape == (3, 12)
    assert_array_equal(inputs["token_ids"], preprocessor((ONE, TWO))["token_ids"])
    assert_array_equal(labels, [0, 1, 1])


def test_a_preset_brings_it_back(preprocessor, tokenizer, tmp_path):
    backbone = Data2VecTextBackbone(
        vocabulary_size=400,
        max_sequence_length=12,
        num_layers=1,
        hidden_dim=8,
        num_heads=2,
        intermediate_dim=8,
    )
    backbone.save_to_preset(str(tmp_path))
    preprocessor.pairs = True
    preprocessor.save_to_preset(str(tmp_path))
    expected = preprocessor((ONE, TWO))
    for reader in (
        Data2VecTextClassifierPreprocessor,
        keras_hub.models.TextClassifierPreprocessor,
    ):
        loaded = reader.from_preset(str(tmp_path))
        assert type(loaded) is Data2VecTextClassifierPreprocessor
        assert loaded.sequence_length == 12
        assert_array_equal(loaded((ONE, TWO))["token_ids"], expected["token_ids"])
        assert loaded.pairs is True
    shorter = Data2VecTextClassifierPreprocessor.from_preset(str(tmp_path), sequence_length=8)
    assert shorter(ONE)["token_ids"].shape == (3, 8)
    # A preset of a run has the tokenizer alone.
    (tmp_path / "preprocessor.json").unlink()
    alone = keras_hub.models.TextClassifierPreprocessor.from_preset(
        str(tmp_path), sequence_length=12
    )
    assert_array_equal(alone((ONE, TWO))["token_ids"], expected["token_ids"])


@pytest.mark.parametrize("pairs", [False, True])
def test_a_classifier_fits_and_predicts_strings(preprocessor, pairs):
    """With a task of KerasHub's own making."""

    class Classifier(keras_hub.models.TextClassifier):
        backbone_cls = Data2VecTextBackbone

        def __init__(self, backbone, preprocessor):
            self.backbone, self.preprocessor = backbone, preprocessor
            outputs = keras.layers.Dense(2)(backbone(backbone.input)[:, 0])
            super().__init__(inputs=backbone.input, outputs=outputs)

        def compile(self, **kwargs):
            keras_hub.models.Task.compile(self, **kwargs)

    backbone = Data2VecTextBackbone(
        vocabulary_size=400,
        max_sequence_length=12,
        num_layers=1,
        hidden_dim=8,
        num_heads=2,
        intermediate_dim=8,
    )
    classifier = Classifier(backbone, preprocessor)
    classifier.compile(
        optimizer=keras.optimizers.Adam(0.02),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    texts = (ONE, TWO) if pairs else ONE
    labels = np.eye(2, dtype="float32")[[0, 1, 0]]
    before = classifier.predict(texts, verbose=0)
    expected = keras.Model(classifier.inputs, classifier.outputs).predict_on_batch(
        preprocessor(texts)
    )
    np.testing.assert_allclose(before, expected, atol=1e-5)
    classifier.fit(texts, labels, epochs=2, verbose=0, shuffle=False)
    assert np.abs(classifier.predict(texts, verbose=0) - before).max() > 1e-3


def test_it_works_on_another_backend(tokenizer, tmp_path):
    preprocessor = Data2VecTextClassifierPreprocessor(tokenizer.in_graph(), sequence_length=12)
    tokenizer.save(tmp_path)
    np.save(tmp_path / "expected.npy", preprocessor((ONE, TWO))["token_ids"])
    code = f"""
import keras, numpy as np
from d2v_tf.finetuning.text_preprocessor import Data2VecTextClassifierPreprocessor
from d2v_tf.data.tokenization import load_tokenizer
assert keras.backend.backend() == "torch"
tokenizer = load_tokenizer({str(tmp_path)!r}).in_graph()
preprocessor = Data2VecTextClassifierPreprocessor(tokenizer, sequence_length=12)
got = preprocessor(({ONE!r}, {TWO!r}))
np.testing.assert_array_equal(
    keras.ops.convert_to_numpy(got["token_ids"]), np.load({str(tmp_path / "expected.npy")!r})
)
"""
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
