"""The probes on features whose answer is known."""

import numpy as np
import pytest
from PIL import Image

from d2v_tf.data.reading import DataError
from d2v_tf.finetuning.probes import (
    knn_accuracy,
    linear_probe_accuracy,
    mean_pooled_features,
    probe,
    raw_features,
)
from tests.numpy_reference import randomize
from tests.pretraining.tiny import vision_backbone


def clusters(num, seed, spread=0.1):
    """Four classes around four orthogonal directions; classes in random order."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, num)
    return (np.eye(4)[labels] + rng.normal(0, spread, (num, 4))).astype("float32"), labels


# Scores.


def test_classes_far_apart_are_all_found():
    assert probe(clusters(200, 0), clusters(100, 1)) == {"knn": 1.0, "linear": 1.0}


def test_labels_that_have_nothing_to_do_with_the_features_give_chance():
    rng = np.random.default_rng(0)
    train, test = (
        (rng.normal(size=(n, 8)).astype("float32"), rng.integers(0, 4, n)) for n in (400, 1000)
    )
    scores = probe(train, test)
    # Five standard deviations of the mean of 1,000 draws at 1/4.
    assert abs(scores["knn"] - 0.25) < 0.07 and abs(scores["linear"] - 0.25) < 0.07


@pytest.mark.parametrize("count", [0, 2, 4])
def test_a_linear_probe_of_too_few_examples_is_refused(count):
    few = np.eye(4, dtype="float32")[:count], np.arange(count) % 2
    with pytest.raises(
        DataError, match=f"four fifths of the {count} that it learns from, and five"
    ):
        linear_probe_accuracy(few, clusters(10, 1))


def test_scores_are_of_the_test_examples():
    features, labels = clusters(200, 0)
    test_features, test_labels = clusters(80, 1)
    wrong = test_labels.copy()
    wrong[:20] = (wrong[:20] + 1) % 4
    assert probe((features, labels), (test_features, wrong)) == {"knn": 0.75, "linear": 0.75}


def test_neighbours_are_by_angle_not_by_distance():
    train = np.array([[100.0, 0.0], [0.0, 1.0]]), np.array([7, 8])
    test = np.array([[1.0, 0.2], [0.2, 50.0]]), np.array([7, 8])
    # [1, 0.2] is 99 away from its class and 1.3 from the other.
    assert knn_accuracy(train, test, num_neighbors=1) == 1.0


def test_neighbours_vote_as_in_numpy():
    rng = np.random.default_rng(0)
    train = rng.normal(size=(60, 5)), rng.integers(0, 2, 60)
    test = rng.normal(size=(40, 5)), rng.integers(0, 2, 40)
    cosine = (test[0] / np.linalg.norm(test[0], axis=1, keepdims=True)) @ (
        train[0] / np.linalg.norm(train[0], axis=1, keepdims=True)
    ).T
    scores = {}
    for k in (1, 5, 21):
        nearest = np.argsort(-cosine, axis=1)[:, :k]
        votes = train[1][nearest].mean(axis=1) > 0.5
        scores[k] = knn_accuracy(train, test, num_neighbors=k)
        assert scores[k] == pytest.approx(np.mean(votes == test[1]))
    assert len(set(scores.values())) > 1  # the number of neighbours matters here


def test_fewer_examples_than_neighbours_all_vote():
    train = np.eye(3), np.array([0, 0, 1])
    assert knn_accuracy(train, (np.eye(3), np.array([0, 0, 0])), num_neighbors=20) == 1.0


def test_the_linear_probe_is_blind_to_the_scale_of_a_feature():
    rng = np.random.default_rng(0)

    def draw(num):
        labels = rng.integers(0, 2, num)
        informative = 1e-6 * (2 * labels - 1 + rng.normal(0, 0.1, num))
        return np.stack([informative, rng.normal(0, 1e4, num)], axis=1), labels

    assert linear_probe_accuracy(draw(200), draw(100)) == 1.0


def test_the_strength_is_the_one_that_does_best_on_held_out_examples():
    rng = np.random.default_rng(0)

    def draw(num):
        labels = (rng.random(num) < 0.25).astype(int)  # three of four are class 0
        return labels[:, None] + rng.normal(0, 0.05, (num, 1)), labels

    train, test = draw(200), draw(400)
    always_the_majority = linear_probe_accuracy(train, test, strengths=(1e-9,))
    assert always_the_majority == pytest.approx(np.mean(test[1] == 0))
    assert linear_probe_accuracy(train, test, strengths=(1e-9, 1.0)) == 1.0
    assert linear_probe_accuracy(train, test, strengths=(1.0, 1e-9)) == 1.0


# Features.


def test_features_are_the_mean_over_patches_without_the_class_token():
    backbone = vision_backbone()
    randomize(backbone.weights, 0)
    images = np.random.default_rng(0).normal(size=(5, 8, 12, 3)).astype("float32")
    batches = [(images[:2], np.array([4, 5])), (images[2:], np.array([6, 7, 8]))]
    features, labels = mean_pooled_features(backbone, batches)
    hidden = np.asarray(backbone(images))  # [5, 1 + 6, 8], the class token first
    expected = sum(hidden[:, i] for i in range(1, 7)) / 6
    assert features.dtype == np.float32 and features.shape == (5, 8)
    np.testing.assert_allclose(features, expected, atol=1e-5)
    assert np.abs(features - hidden.mean(axis=1)).max() > 0.01  # what counting it would give
    assert labels.tolist() == [4, 5, 6, 7, 8]


class Backbone:
    """Stands for a backbone: its hidden states are its inputs."""

    def __init__(self, num_prefix_tokens):
        self.num_prefix_tokens = num_prefix_tokens

    def feature_padding_mask(self, inputs):
        return None

    def predict_on_batch(self, inputs):
        return inputs


@pytest.mark.parametrize(("num_prefix_tokens", "mean"), [(0, 1.5), (1, 2.0), (2, 2.5)])
def test_as_many_tokens_are_left_out_as_the_backbone_puts_first(num_prefix_tokens, mean):
    hidden = np.arange(4.0).reshape(1, 4, 1)
    features, _ = mean_pooled_features(Backbone(num_prefix_tokens), [(hidden, np.zeros(1))])
    assert features.tolist() == [[mean]]


def test_the_mean_of_half_precision_states_is_taken_in_float32():
    backbone = vision_backbone(dtype="mixed_bfloat16")
    images = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype("float32")
    features, _ = mean_pooled_features(backbone, [(images, np.zeros(2, int))])
    hidden = np.asarray(backbone.predict_on_batch(images)).astype("float32")
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, hidden[:, 1:].mean(axis=1), rtol=1e-6)


def test_small_images_are_flattened_as_they_are():
    images = np.random.default_rng(0).normal(size=(3, 4, 6, 2)).astype("float32")
    batches = [(images[:2], np.array([1, 0])), (images[2:], np.array([2]))]
    features, labels = raw_features(batches, size=6)
    assert features.shape == (3, 48) and labels.tolist() == [1, 0, 2]
    np.testing.assert_array_equal(features, [image.ravel() for image in images])


@pytest.mark.parametrize("shape", [(16, 16), (20, 12), (5, 16)])
def test_larger_images_are_averaged_down_as_pillow_does(shape):
    images = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype("float32")
    features, _ = raw_features([(images, np.zeros(2, int))], size=8)
    expected = [
        np.stack(
            [
                np.asarray(Image.fromarray(image[..., c]).resize((8, 8), Image.BILINEAR))
                for c in range(3)
            ],
            axis=-1,
        ).ravel()
        for image in images
    ]
    assert features.shape == (2, 8 * 8 * 3) and features.dtype == np.float32
    np.testing.assert_allclose(features, expected, atol=1e-5)
