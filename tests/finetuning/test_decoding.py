"""Greedy decoding against a loop over frames; beam search against all paths written out."""

import builtins
import collections
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from d2v_tf.errors import UserError
from d2v_tf.finetuning.decoding import BeamSearchDecoder, GreedyDecoder, greedy_ids
from d2v_tf.finetuning.ngram import estimate_ngrams, score_sentence, write_arpa

VOCABULARY = ("<pad>", "<s>", "</s>", "<unk>", "|", "a", "b", "c")
SMALL = ("<pad>", "|", "a", "b")


def merged(path):
    return [label for label, _ in itertools.groupby(path) if label]


def log_softmax(x):
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def spell(labels, vocabulary=SMALL):
    return " ".join("".join(vocabulary[i] for i in labels).replace("|", " ").split())


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_greedy_is_the_merged_best_path(mode):
    logits = np.random.default_rng(0).normal(size=(4, 40, 5)).astype("float32")
    logits[:, 1::2] = logits[:, ::2]  # every frame twice: repeats to merge
    lengths = np.array([40, 23, 1, 0])
    function = greedy_ids
    if mode != "eager":
        signature = [tf.TensorSpec([None, None, 5]), tf.TensorSpec([None], tf.int64)]
        function = tf.function(greedy_ids, input_signature=signature, jit_compile=mode == "xla")
    ids, counts = function(tf.constant(logits), tf.constant(lengths))
    assert ids.shape == (4, 40)
    for row, length, got, count in zip(logits, lengths, ids.numpy(), counts.numpy(), strict=True):
        expected = merged(row[:length].argmax(-1))
        assert got[:count].tolist() == expected
        assert (got[count:] == -1).all()


def test_greedy_text():
    path = [5, 5, 0, 5, 4, 4, 6, 0, 0, 4, 2]
    logits = 9.0 * np.eye(8)[None, path]
    assert GreedyDecoder(VOCABULARY)(logits, [11]) == ["aa b"]
    assert GreedyDecoder(VOCABULARY)(logits, [2]) == ["a"]
    assert GreedyDecoder(VOCABULARY)(np.zeros((0, 3, 8)), np.zeros(0, int)) == []


flashlight = pytest.mark.skipif(
    pytest.importorskip("importlib.util").find_spec("flashlight") is None,
    reason="flashlight-text is not installed: pip install d2v_tf[lm]",
)


@flashlight
def test_a_wide_beam_finds_the_most_probable_text():
    """Where the best text is not the best path's: sums over all alignments decide."""
    rng = np.random.default_rng(0)
    decode = BeamSearchDecoder(SMALL, beam_size=500)
    different = 0
    for _ in range(20):
        logits = rng.normal(0, 1, (1, 5, 4)).astype("float32")
        scores = log_softmax(logits[0].astype("float64"))
        totals = collections.defaultdict(lambda: -np.inf)
        for path in itertools.product(range(4), repeat=5):
            text = spell(merged(path))
            totals[text] = np.logaddexp(totals[text], scores[range(5), path].sum())
        best = max(totals, key=totals.get)
        assert decode(logits, [5]) == [best]
        different += best != spell(merged(logits[0].argmax(-1)))
    assert different > 3


@flashlight
def test_padding_is_not_decoded():
    logits = 9.0 * np.eye(4, dtype="float32")[None, [2, 0, 3, 3, 2, 2]]
    decode = BeamSearchDecoder(SMALL)
    assert decode(np.concatenate([logits] * 2), [6, 4]) == ["aba", "ab"]
    assert decode(logits, [0]) == [""]


@pytest.fixture
def word_model(tmp_path):
    """A model of words in which "ab ba" is usual, and its file."""
    sentences = [["ab", "ba"]] * 20 + [["aa"], ["bb", "bb"], ["ba", "ab", "ba"]] * 2
    path = tmp_path / "lm.arpa"
    write_arpa(estimate_ngrams(sentences, 2), path)
    return str(path)


def emissions(*frames):
    """Logits `[1, T, 4]`; a frame is a dict of letters to probabilities, the rest is shared."""
    rows = []
    for frame in frames:
        rest = (1 - sum(frame.values())) / (len(SMALL) - len(frame))
        rows.append([np.log(frame.get(letter, rest)) for letter in SMALL])
    return np.array([rows], "float32")


AB_BA_OR_BB = (
    {"a": 0.9}, {"b": 0.9}, {"|": 0.9}, {"b": 0.9}, {"<pad>": 0.9}, {"b": 0.5, "a": 0.45},
)  # fmt: skip


@flashlight
def test_a_language_model_of_words_decides_where_the_sound_does_not(word_model):
    logits = emissions(*AB_BA_OR_BB)
    assert GreedyDecoder(SMALL)(logits, [6]) == ["ab bb"]
    words = ["ab", "ba", "aa", "bb"]
    without = BeamSearchDecoder(SMALL, words=words)
    assert without(logits, [6]) == ["ab bb"]
    with_model = BeamSearchDecoder(SMALL, words=words, language_model=word_model, lm_weight=2.0)
    assert with_model(logits, [6]) == ["ab ba"]


@flashlight
def test_only_words_of_the_list_are_heard_and_the_last_needs_no_bar(word_model):
    logits = emissions({"a": 0.9}, {"a": 0.6, "b": 0.3}, {"b": 0.9}, {"|": 0.2, "<pad>": 0.7})
    assert BeamSearchDecoder(SMALL, words=["ba", "bb"])(logits, [4]) in (["bb"], ["ba"])
    assert BeamSearchDecoder(SMALL, words=["ab", "aab"])(logits, [4]) == ["ab"]
    assert BeamSearchDecoder(SMALL, words=["ab"], language_model=word_model)(logits, [3]) == ["ab"]


@flashlight
def test_a_language_model_of_letters(tmp_path):
    path = tmp_path / "letters.arpa"
    write_arpa(estimate_ngrams([list("ab|ba")] * 20 + [list("bb"), list("aa")], 3), path)
    logits = emissions(*AB_BA_OR_BB)
    decode = BeamSearchDecoder(SMALL, language_model=str(path), lm_weight=2.0)
    assert decode(logits, [6]) == ["ab ba"]


@flashlight
def test_a_text_scores_its_alignments_its_words_and_the_language_model(word_model):
    sentences = [["ab", "ba"]] * 20 + [["aa"], ["bb", "bb"], ["ba", "ab", "ba"]] * 2
    tables = estimate_ngrams(sentences, 2)
    words = ["ab", "ba", "aa", "bb"]
    weights = {"lm_weight": 0.7, "word_score": 1.5}
    decode = BeamSearchDecoder(
        SMALL, words, word_model, beam_size=5000, beam_threshold=100.0, **weights
    )
    rng = np.random.default_rng(0)
    found = []
    for _ in range(20):
        logits = rng.normal(0, 1.5, (1, 6, 4)).astype("float32")
        scores = log_softmax(logits[0].astype("float64"))
        totals = collections.defaultdict(lambda: -np.inf)
        for path in itertools.product(range(4), repeat=6):
            text = spell(merged(path))
            if text and set(text.split()) <= set(words):
                totals[text] = np.logaddexp(totals[text], scores[range(6), path].sum())
        for text in totals:
            totals[text] += 0.7 * sum(score_sentence(tables, text.split()))
            totals[text] += 1.5 * len(text.split())
        found.append(max(totals, key=totals.get))
        assert decode(logits, [6]) == found[-1:]
    assert len({len(text.split()) for text in found}) == 2


def test_without_flashlight_the_extra_is_named(monkeypatch):
    original = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("flashlight"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"pip install 'd2v_tf\[lm\]'"):
        BeamSearchDecoder(SMALL)


@flashlight
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"language_model": "nowhere.arpa"}, "nowhere.arpa is no file"),
        ({"words": ["ax", "x"]}, "none of the 2 words to be heard .first: 'ax'. can be spelled"),
        ({"words": []}, "no words"),
        ({"beam_size": 0}, "beam_size"),
    ],
)
def test_arguments_that_cannot_be_used(arguments, message):
    with pytest.raises(UserError, match=message):
        BeamSearchDecoder(SMALL, **arguments)


@flashlight
def test_words_that_cannot_be_spelled_are_left_out_and_counted(word_model):
    logits = emissions(*AB_BA_OR_BB)
    words, lines = ["ab", "ba", "bb", "añ", "b|", "xa"], []
    decode = BeamSearchDecoder(SMALL, words, word_model, warn=lines.append)
    assert decode(logits, [6]) == ["ab ba"]
    assert lines == [
        "3 of the 6 words to be heard have letters that the model does not know (x | ñ) and are "
        "left out (first: 'añ')"
    ]
    with pytest.warns(UserWarning, match="1 of the 2 words"):
        BeamSearchDecoder(SMALL, ["ab", "x"])


@flashlight
def test_a_language_model_of_something_else_is_refused(word_model, tmp_path):
    with pytest.raises(UserError, match=r"lm.arpa knows 0 of the 3 letters. .*--words=FILE"):
        BeamSearchDecoder(SMALL, language_model=word_model)
    path = tmp_path / "letters.arpa"
    write_arpa(estimate_ngrams([list("ab|ba"), list("bb")], 2), path)
    with pytest.raises(UserError, match="knows 0 of the 2 words to be heard. Is it a model of let"):
        BeamSearchDecoder(SMALL, ["ab", "ba"], str(path))


@flashlight
def test_a_list_may_have_more_words_than_the_language_model(word_model):
    logits, lines = emissions(*AB_BA_OR_BB), []
    words = ["ab", "ba", *("ab" * n for n in range(2, 8))]
    decode = BeamSearchDecoder(SMALL, words, word_model, warn=lines.append)
    assert decode(logits, [6]) == ["ab ba"]
    (line,) = lines
    assert "lm.arpa knows 2 of the 8 words to be heard; to it all others are as" in line
    BeamSearchDecoder(SMALL, words[:4], word_model, warn=lines.append)  # half of them: no word
    assert len(lines) == 1


@flashlight
def test_a_file_that_is_no_language_model(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text("no model")
    with pytest.raises(UserError, match="lm.arpa cannot be read by KenLM"):
        BeamSearchDecoder(SMALL, language_model=str(path))


def test_keras_tensors_are_taken_too():
    logits = keras.ops.convert_to_tensor(9.0 * np.eye(8, dtype="float32")[None, [5, 0, 5]])
    assert GreedyDecoder(VOCABULARY)(logits, keras.ops.convert_to_tensor([3])) == ["aa"]
