"""What a representation of text has to beat: how often each token stands in it."""

import collections

import numpy as np

from d2v_tf.finetuning.probes import joined_features

# More would be gigabytes: a table of 10,000 texts has 160 MB with as many, and 2 GB with RoBERTa's
# 50,265. What is left out stands in few texts.
MAX_TOKENS = 4096


def frequent_token_ids(dataset, special_token_ids, limit=MAX_TOKENS):
    """The tokens that are counted: the most frequent of the training texts.

    Args:
        dataset: iterable of ({"token_ids": [B, T], ...}, labels [B]), to train the probe on.
        special_token_ids: sequence of int. What is not counted.
        limit: int.

    Returns:
        int array `[C]`, the most frequent first, the lower id where two are equally frequent.
    """
    counts = collections.Counter()
    for inputs, _ in dataset:
        counts.update(np.asarray(inputs["token_ids"]).ravel().tolist())
    for token_id in special_token_ids:
        counts.pop(token_id, None)
    return np.array(sorted(counts, key=lambda t: (-counts[t], t))[:limit], "int64")


def bag_of_words_features(dataset, token_ids):
    """How often some tokens stand in each text.

    Args:
        dataset: iterable of ({"token_ids": [B, T], ...}, labels [B]).
        token_ids: int array `[C]`, from `frequent_token_ids`: the same for training and test.

    Returns:
        (float32 array `[N, C]` of log(1 + count), int array `[N]`).
    """
    other = len(token_ids)  # a column more, for all other tokens
    features, labels = [], []
    for inputs, batch_labels in dataset:
        tokens = np.asarray(inputs["token_ids"])
        largest = max(np.max(tokens, initial=0), np.max(token_ids, initial=0))
        column_of = np.full(largest + 1, other)
        column_of[token_ids] = np.arange(other)
        counts = np.zeros((len(tokens), other + 1), "float32")
        np.add.at(counts, (np.arange(len(tokens))[:, None], column_of[tokens]), 1.0)
        features.append(np.log1p(counts[:, :other]))
        labels.append(np.asarray(batch_labels))
    return joined_features(features, labels)
