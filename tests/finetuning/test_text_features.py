"""The baseline of text: which tokens it counts, and how often they stand in a text."""

import numpy as np
from numpy.testing import assert_array_equal

from d2v_tf.finetuning.text_features import (
    MAX_TOKENS,
    bag_of_words_features,
    frequent_token_ids,
)

TOKENS = np.array([[0, 5, 5, 7, 2, 1], [0, 7, 2, 1, 1, 1], [0, 7, 4, 6, 8, 2]])
DATASET = [({"token_ids": TOKENS[:1]}, [3]), ({"token_ids": TOKENS[1:]}, [4, 5])]


def test_the_most_frequent_tokens_are_counted():
    assert_array_equal(frequent_token_ids(DATASET, (0, 1, 2)), [7, 5, 4, 6, 8])
    assert_array_equal(frequent_token_ids(DATASET, (0, 1, 2), limit=3), [7, 5, 4])


def test_counts_are_of_the_given_tokens():
    features, labels = bag_of_words_features(DATASET, np.array([7, 5, 9]))
    expected = np.log([[2, 3, 1], [2, 1, 1], [2, 1, 1]])
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, rtol=1e-6)
    assert_array_equal(labels, [3, 4, 5])


def test_a_large_vocabulary_gives_no_more_columns_than_the_limit():
    tokens = np.random.default_rng(0).integers(5, 50_265, (60, 512))
    dataset = [({"token_ids": tokens}, np.zeros(60, int))]
    counted = frequent_token_ids(dataset, (0, 1, 2, 3, 50_264))
    features, _ = bag_of_words_features(dataset, counted)
    assert features.shape == (60, MAX_TOKENS)
    expected = [np.log1p(np.sum(tokens == token, axis=1)) for token in counted[::500]]
    np.testing.assert_allclose(features[:, ::500].T, expected, rtol=1e-6)


def test_an_empty_dataset_has_no_features():
    counted = frequent_token_ids([], (0, 1))
    features, labels = bag_of_words_features([], counted)
    assert len(counted) == len(features) == len(labels) == 0
    assert len(bag_of_words_features(DATASET, counted)[0]) == 3
