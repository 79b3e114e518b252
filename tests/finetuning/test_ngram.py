"""The n-gram estimator: a distribution for every history, by hand on a small text, and in KenLM."""

import io
import itertools
import math

import numpy as np
import pytest
from rich.console import Console

from d2v_tf.data.reading import DataError
from d2v_tf.finetuning.ngram import (
    FALLBACK,
    estimate_ngrams,
    prepare_ngrams,
    score_sentence,
    write_arpa,
)

WORDS = ("a", "b", "c", "d")


def text(seed=0, count=200):
    """Sentences in which what follows depends on what is before."""
    rng = np.random.default_rng(seed)
    sentences = []
    for _ in range(count):
        words = [WORDS[rng.integers(4)]]
        while rng.random() < 0.8:
            step = rng.choice(4, p=[0.1, 0.6, 0.2, 0.1])
            words.append(WORDS[(WORDS.index(words[-1]) + step) % 4])
        sentences.append(words)
    return sentences + [["e", "f", "e"], ["g"], []]


def probability(tables, history, word):
    """The last word's, after a history from the start of a sentence or in the middle of one."""
    context = tuple(history)[-(len(tables) - 1) :] if len(tables) > 1 else ()
    score = 0.0
    while (*context, word) not in tables[len(context)]:
        score += tables[len(context) - 1].get(context, (0, 0.0))[1]
        context = context[1:]
    return 10 ** (score + tables[len(context)][(*context, word)][0])


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_probabilities_of_every_history_sum_to_one(order):
    tables = estimate_ngrams(text(), order)
    vocabulary = [gram[0] for gram in tables[0] if gram != ("<s>",)]
    assert set(vocabulary) == {*"abcdefg", "</s>", "<unk>"}
    histories = [
        (),
        ("<s>",),
        ("<s>", "a"),
        ("e", "f"),
        ("g", "a"),
        ("<unk>",),
        ("a", "<unk>", "b"),
    ]
    histories += itertools.product("abcd", repeat=3)
    for history in histories:
        total = sum(probability(tables, history, word) for word in vocabulary)
        assert total == pytest.approx(1, abs=1e-9), history


def test_bigrams_by_hand():
    # a a b / a b; too few counts of counts, so the discounts are the fallback's.
    tables = estimate_ngrams([["a", "a", "b"], ["a", "b"]], 2)
    one, two, _ = FALLBACK
    # Different words before: a after <s> and a, b after a, </s> after b: 2, 1, 1.
    kept = (two + one + one) / 4
    uniform = 1 / 4  # a, b, </s>, <unk>
    p_b = (1 - one) / 4 + kept * uniform
    assert 10 ** tables[0][("b",)][0] == pytest.approx(p_b)
    assert 10 ** tables[0][("<unk>",)][0] == pytest.approx(kept * uniform)
    # After a: a once, b twice.
    backoff = (one + two) / 3
    assert 10 ** tables[0][("a",)][1] == pytest.approx(backoff)
    assert 10 ** tables[1][("a", "b")][0] == pytest.approx((2 - two) / 3 + backoff * p_b)


def test_discounts_are_chen_and_goodmans_where_counts_allow():
    times = dict(zip("abcdefghij", (1, 1, 1, 1, 2, 2, 2, 3, 4, 5), strict=True))
    sentences = [["u", word] for word, count in times.items() for _ in range(count)]
    tables = estimate_ngrams(sentences, 2)
    # Bigrams: u w as above; <s> u 22 times; w </s> as u w.
    n1, n2, n3, n4 = 8, 6, 2, 2
    y = n1 / (n1 + 2 * n2)
    d1, d2, d3 = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
    kept = (4 * d1 + 3 * d2 + 3 * d3) / 22
    assert 10 ** tables[0][("u",)][1] == pytest.approx(kept)
    expected = (2 - d2) / 22 + kept * 10 ** tables[0][("e",)][0]
    assert 10 ** tables[1][("u", "e")][0] == pytest.approx(expected)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_kenlm_scores_the_file_as_we_do(order, tmp_path):
    kenlm = pytest.importorskip(
        "flashlight.lib.text.decoder.kenlm", reason="pip install flashlight-text"
    )
    from flashlight.lib.text.dictionary import Dictionary

    tables = estimate_ngrams(text(), order)
    path = str(tmp_path / "lm.arpa")
    write_arpa(tables, path)
    words = [*"abcdefg", "unheard"]
    dictionary = Dictionary()
    for word in words:
        dictionary.add_entry(word)
    model = kenlm.KenLM(path, dictionary)
    rng = np.random.default_rng(3)
    for _ in range(30):
        sentence = [words[i] for i in rng.integers(0, 8, rng.integers(0, 7))]
        state, got = model.start(False), []
        for word in sentence:
            state, score = model.score(state, dictionary.get_index(word))
            got.append(score)
        got.append(model.finish(state)[1])
        np.testing.assert_allclose(got, score_sentence(tables, sentence), atol=1e-4)


def test_the_longer_history_predicts_better():
    train, test = text(0), text(1)[:200]

    def perplexity(order):
        tables = estimate_ngrams(train, order)
        scores = [s for sentence in test for s in score_sentence(tables, sentence)]
        return 10 ** -np.mean(scores)

    assert perplexity(2) < 0.85 * perplexity(1)


def test_files_are_the_same_every_time(tmp_path):
    for name, sentences in (("one", text()), ("two", text()[::-1])):
        write_arpa(estimate_ngrams(sentences, 3), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert not math.isnan(float((tmp_path / "one").read_text().split("\n")[6].split("\t")[0]))


@pytest.mark.parametrize(
    ("sentences", "order", "message"),
    [([["a"]], 0, "order=0"), ([], 2, "no words"), ([["a", "</s>"]], 2, "'</s>'")],
)
def test_what_cannot_be_estimated_is_refused(sentences, order, message):
    with pytest.raises(DataError, match=message):
        estimate_ngrams(sentences, order)


def test_a_model_of_words_has_its_words_beside_it(tmp_path):
    (tmp_path / "a.txt").write_text("zwei eins\n\neins  drei\n")
    console = Console(file=io.StringIO(), width=200)
    spec = f"text:{tmp_path}/a.txt"

    def prepare(name, order=2, letters=False):
        prepare_ngrams(spec, str(tmp_path / "lm" / name), order, letters, console)

    (tmp_path / "lm").mkdir()
    prepare("letters.arpa", letters=True)
    assert not (tmp_path / "lm" / "words.txt").exists()
    prepare("2.arpa")
    assert (tmp_path / "lm" / "words.txt").read_text() == "drei\neins\nzwei\n"
    assert f"its 3 words, for --words: {tmp_path}/lm/words.txt" in console.file.getvalue()
    prepare("3.arpa", order=3)  # of the same words
    with pytest.raises(DataError, match="3.arpa exists already"):
        prepare("3.arpa")
    (tmp_path / "a.txt").write_text("vier\n")
    with pytest.raises(DataError, match="words.txt has other words, of another model. Remove it"):
        prepare("4.arpa")
    assert not (tmp_path / "lm" / "4.arpa").exists()
