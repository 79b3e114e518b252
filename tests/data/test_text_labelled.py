"""Batches of labelled texts: special tokens, cutting, lengths, order, and where a run resumes."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from d2v_tf.data import text_labelled
from d2v_tf.data.labelled_text import LabelledText
from d2v_tf.data.reading import DataError
from d2v_tf.data.text_labelled import (
    cut_longest,
    evaluation_dataset,
    tokenize,
    training_dataset,
)
from d2v_tf.data.tokenization import train_tokenizer
from tests.data.texts import TOPICS


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TOPICS[:20], 400)


def words(number, seed=0):
    """Texts of 1 to 30 words."""
    rng = np.random.default_rng(seed)
    pool = TOPICS[0].split()
    return [" ".join(rng.choice(pool, rng.integers(1, 31))) for _ in range(number)]


def labelled(number=50, pairs=False, scores=False):
    rng = np.random.default_rng(1)
    return LabelledText(
        "made",
        words(number),
        rng.random(number).astype("float32") if scores else rng.integers(0, 3, number),
        None if scores else ("a", "b", "c"),
        words(number, seed=2) if pairs else None,
    )


@pytest.fixture(scope="module")
def numbered(tokenizer):
    """Texts, four short ones to a long one, each with its number as its score."""
    split = [text.split() for text in labelled(50).sentences]
    texts = [" ".join(w if i % 5 == 0 else w[: -(-len(w) // 3)]) for i, w in enumerate(split)]
    made = LabelledText("made", texts, np.arange(50, dtype="float32"))
    return tokenize(made, tokenizer, 48)


def take(dataset, count):
    return list(dataset.take(count).as_numpy_iterator())


def drawn(tokenized, batches, **options):
    """The numbers of the examples of some batches, `[batches, B]`."""
    options = {"batch_size": 4, "seed": 0, "start": 0, **options}
    found = take(training_dataset(tokenized, **options), batches)
    return np.array([labels[:, 0] for _, labels in found]).astype(int)


def plain_cut(first, second, room):
    """A token at a time, off the longer one; off the second where both are equally long."""
    first, second = list(first), list(second)
    while len(first) + len(second) > room:
        (first if len(first) > len(second) else second).pop()
    return [first, second]


# Tokens.


@pytest.mark.parametrize("pairs", [False, True])
def test_special_tokens_stand_where_roberta_has_them(tokenizer, pairs):
    made = labelled(pairs=pairs)
    tokenized = tokenize(made, tokenizer, 400)
    assert tokenized.num_cut == 0
    for i, text in enumerate(made.sentences):
        expected = [0, *tokenizer.encode([text])[0], 2]
        if pairs:
            expected += [2, *tokenizer.encode([made.second_sentences[i]])[0], 2]
        start, stop = tokenized.row_splits[i : i + 2]
        assert tokenized.token_ids[start:stop].tolist() == expected
        assert tokenized.lengths[i] == len(expected)


def test_pairs_are_cut_as_a_token_at_a_time():
    for room in range(2, 12):
        for one in range(9):
            for two in range(9):
                pair = [list(range(one)), list(range(100, 100 + two))]
                assert cut_longest(pair, room) == plain_cut(*pair, room)
    assert cut_longest([[1, 2, 3]], 2) == [[1, 2]]


def test_cut_examples_keep_their_special_tokens_and_are_counted(tokenizer):
    made = labelled(pairs=True)
    whole, cut = tokenize(made, tokenizer, 400), tokenize(made, tokenizer, 21)
    assert cut.num_cut == np.sum(whole.lengths > 21) > 10
    assert_array_equal(cut.lengths, np.minimum(whole.lengths, 21))
    for i in np.flatnonzero(whole.lengths > 21):
        row = cut.token_ids[cut.row_splits[i] : cut.row_splits[i + 1]]
        assert row[0] == 0 and row[-1] == 2 and np.sum(row == 2) == 3
    assert f"{cut.num_cut} were longer and are cut to 21" in cut.describe()
    assert "cut" not in whole.describe()


def test_white_space_at_the_ends_is_no_text(tokenizer):
    one = tokenize(LabelledText("x", [" \ta b\r\n "], np.zeros(1)), tokenizer, 32)
    other = tokenize(LabelledText("x", ["a b"], np.zeros(1)), tokenizer, 32)
    assert_array_equal(one.token_ids, other.token_ids)


def test_many_texts_are_tokenised_in_parts(tokenizer, monkeypatch):
    whole = tokenize(labelled(pairs=True), tokenizer, 30)
    monkeypatch.setattr(text_labelled, "TOKENIZE_BATCH", 7)
    parts = tokenize(labelled(pairs=True), tokenizer, 30)
    assert_array_equal(parts.token_ids, whole.token_ids)
    assert_array_equal(parts.row_splits, whole.row_splits)
    assert parts.num_cut == whole.num_cut


def test_a_length_without_room_is_refused(tokenizer):
    with pytest.raises(DataError, match="2 texts an example, .* at least 6 tokens. Received: 5"):
        tokenize(labelled(pairs=True), tokenizer, 5)
    assert tokenize(labelled(pairs=True), tokenizer, 6).lengths.max() == 6
    with pytest.raises(DataError, match="1 texts an example, .* at least 3 tokens. Received: 2"):
        tokenize(labelled(), tokenizer, 2)


# Evaluation.


@pytest.mark.parametrize("lengths", [None, "buckets"])
def test_evaluation_has_each_example_once_in_order(tokenizer, lengths):
    made = labelled(pairs=True)
    tokenized = tokenize(made, tokenizer, 64)
    lengths = lengths and tokenized.bucket_lengths(4)
    batches = list(
        evaluation_dataset(tokenized, batch_size=16, lengths=lengths).as_numpy_iterator()
    )
    assert [len(labels) for _, labels in batches] == [16, 16, 16, 2]
    assert_array_equal(np.concatenate([y for _, y in batches]), np.eye(3)[made.labels])
    row = 0
    for inputs, labels in batches:
        assert inputs["token_ids"].dtype == np.int32 and labels.dtype == np.float32
        assert_array_equal(inputs["padding_mask"], inputs["token_ids"] != 1)
        longest = tokenized.lengths[row : row + len(labels)].max()
        expected = min(n for n in lengths if n >= longest) if lengths else 64
        assert inputs["token_ids"].shape[1] == expected
        for ids in inputs["token_ids"]:
            start, stop = tokenized.row_splits[row : row + 2]
            assert_array_equal(ids[: stop - start], tokenized.token_ids[start:stop])
            assert (ids[stop - start :] == 1).all()
            row += 1


def test_scores_have_a_column(tokenizer):
    made = labelled(scores=True)
    dataset = evaluation_dataset(tokenize(made, tokenizer, 32), batch_size=50)
    ((_, labels),) = dataset.as_numpy_iterator()
    assert labels.shape == (50, 1) and labels.dtype == np.float32
    assert_array_equal(labels[:, 0], made.labels)


# Training.


def test_shapes_are_static(numbered):
    fixed = training_dataset(numbered, batch_size=4, seed=0, start=0).element_spec
    assert fixed[0]["token_ids"].shape == fixed[0]["padding_mask"].shape == (4, 48)
    assert fixed[1].shape == (4, 1)
    options = {"batch_size": 4, "seed": 0, "start": 0, "lengths": [16, 32, 48]}
    several = training_dataset(numbered, **options)
    assert several.element_spec[0]["token_ids"].shape.as_list() == [4, None]
    found = {inputs["token_ids"].shape for inputs, _ in take(several, 100)}
    assert found == {(4, 16), (4, 32), (4, 48)}


def test_an_epoch_has_every_example_once_and_the_next_another_order(numbered):
    epochs = drawn(numbered, 50, batch_size=2).reshape(2, 50)
    for epoch in epochs:
        assert sorted(epoch) == list(range(50))
    assert (epochs[0] != epochs[1]).mean() > 0.8
    assert (epochs[0] != np.arange(50)).mean() > 0.8
    assert (epochs[0] != drawn(numbered, 25, batch_size=2, seed=1).reshape(-1)).mean() > 0.8
    in_order = drawn(numbered, 25, batch_size=4, shuffle=False)  # two epochs
    assert_array_equal(in_order.reshape(-1), [*range(50), *range(50)])


@pytest.mark.parametrize("start", [0, 1, 3, 70])
@pytest.mark.parametrize("lengths", [None, [16, 32, 48]])
def test_a_run_continues_from_any_batch(numbered, start, lengths):
    options = {"batch_size": 4, "seed": 3, "lengths": lengths}
    whole = take(training_dataset(numbered, start=0, **options), start + 4)[start:]
    again = take(training_dataset(numbered, start=4 * start, **options), 4)
    for (inputs, labels), (others, other_labels) in zip(whole, again, strict=True):
        assert_array_equal(labels, other_labels)
        for name in inputs:
            assert_array_equal(inputs[name], others[name])


def test_tokens_and_labels_stay_together(numbered):
    options = {"batch_size": 4, "seed": 0, "start": 0, "lengths": [16, 32, 48]}
    for inputs, labels in take(training_dataset(numbered, **options), 100):
        for ids, label in zip(inputs["token_ids"], labels[:, 0].astype(int), strict=True):
            start, stop = numbered.row_splits[label : label + 2]
            assert_array_equal(ids[ids != 1], numbered.token_ids[start:stop])


def test_several_lengths_leave_less_padding_and_lose_no_example(numbered):
    # 10 groups of 64 batches of 4: 256 positions, four whole epochs of 50 and parts of others.
    found = drawn(numbered, 640, lengths=[8, 16, 24, 32, 40, 48]).reshape(10, -1)
    for group in found:
        counts = np.bincount(group, minlength=50)
        assert set(counts) <= {4, 5, 6}
    assert set(np.bincount(found.reshape(-1))) == {51, 52}  # 2,560 positions are 51.2 epochs
    padding = {}
    for name, lengths in (("one", None), ("several", [8, 16, 24, 32, 40, 48])):
        options = {"batch_size": 4, "seed": 0, "start": 0, "lengths": lengths}
        masks = [x["padding_mask"] for x, _ in take(training_dataset(numbered, **options), 128)]
        padding[name] = 1 - sum(m.sum() for m in masks) / sum(m.size for m in masks)
    assert padding["several"] < 0.3 < padding["one"]
    # Long and short batches come in turn: no order by length is left.
    lengths = numbered.lengths[found[0].reshape(64, 4)].mean(axis=1)
    assert abs(np.corrcoef(lengths, np.arange(64))[0, 1]) < 0.4


@pytest.mark.parametrize("lengths", [None, [16, 32, 48]])
def test_shards_share_out_what_a_whole_batch_has(numbered, lengths):
    whole = drawn(numbered, 3, batch_size=8, start=16, lengths=lengths)
    for shard in range(2):
        options = {"num_shards": 2, "shard": shard, "start": 16, "lengths": lengths}
        assert_array_equal(drawn(numbered, 3, batch_size=4, **options), whole[:, shard::2])


def test_what_does_not_fit_is_refused(numbered):
    with pytest.raises(DataError, match="an example of 48 tokens, and the longest batches .*32"):
        training_dataset(numbered, batch_size=4, seed=0, start=0, lengths=[16, 32])
    with pytest.raises(ValueError, match="start must be a multiple .* Received: start=6"):
        training_dataset(numbered, batch_size=4, seed=0, start=6, lengths=[16, 48])
