"""From logits to text: the best label of each frame, or a beam search with a language model."""

import os
import warnings

import numpy as np
from keras import ops

from d2v_tf.errors import UserError
from d2v_tf.finetuning.letters import (
    SPECIALS,
    UNKNOWN,
    WORD_END,
    decode_letters,
    encode_letters,
    letters_in,
)

# No word of a language model's: it has a space in it.
NO_WORD = "no word"


def greedy_ids(logits, frame_lengths):
    """The best label of every frame, repeats merged and blanks left out.

    Static shapes and Keras' operations only: it runs in a graph, under XLA and in a served model.

    Args:
        logits: `[B, T, V]`, the blank first.
        frame_lengths: int `[B]`. Real frames.

    Returns:
        (int32 `[B, T]`, the labels in order with -1 behind them; int32 `[B]`, how many).
    """
    best = ops.cast(ops.argmax(logits, axis=-1), "int32")  # [B, T]
    size = ops.shape(best)[1]
    real = ops.arange(size, dtype="int32")[None] < ops.cast(frame_lengths, "int32")[:, None]
    changed = ops.concatenate(
        [ops.ones_like(best[:, :1], dtype="bool"), best[:, 1:] != best[:, :-1]], axis=1
    )
    kept = ops.logical_and(ops.logical_and(real, changed), best > 0)
    # Kept ones to the front, in order: a stable sort written out as keys that all differ.
    order = ops.argsort(ops.where(kept, 0, size) + ops.arange(size, dtype="int32")[None], axis=1)
    ids = ops.take_along_axis(ops.where(kept, best, -1), ops.cast(order, "int32"), axis=1)
    return ids, ops.sum(ops.cast(kept, "int32"), axis=1)


class GreedyDecoder:
    """Decodes each frame for itself.

    Args:
        vocabulary: tuple of V str, the blank first.

    Call: (logits `[B, T, V]`, frame lengths `[B]`) -> list of B str.
    """

    def __init__(self, vocabulary):
        self.vocabulary = tuple(vocabulary)

    def __call__(self, logits, frame_lengths):
        ids, lengths = greedy_ids(logits, frame_lengths)
        ids, lengths = ops.convert_to_numpy(ids), ops.convert_to_numpy(lengths)
        return [
            decode_letters(row[:n], self.vocabulary) for row, n in zip(ids, lengths, strict=True)
        ]


class BeamSearchDecoder:
    """Finds the most probable text, with a list of words and a language model if wanted.

    flashlight-text does the search, which sums over the alignments of a text, and KenLM in it reads
    the model. With `words` only these are heard, and the language model is of words. Without, any
    letters are, and the language model is of letters, spelled as the vocabulary has them
    (`a b | b a`).

    A text scores its log probability, plus `lm_weight` times the log10 of the language model's (the
    end of the sentence counted), plus `word_score` a word (letters only: a bar).

    Args:
        vocabulary: tuple of V str, the blank first, with `|`.
        words: optional iterable of str. The words that can be heard; those with a letter that the
            vocabulary lacks are left out, with a warning.
        language_model: optional str. An ARPA or KenLM file, `ngram.write_arpa`'s, say.
        lm_weight: float. What is best depends on model and language model: try a few on a
            development set.
        word_score: float. Likewise; raise it where words are left out.
        beam_size: int. Hypotheses that are kept at each frame.
        beam_threshold: float. Hypotheses worse than the best by more than this are dropped.
        warn: callable(str), told of words that are left out or that the language model does not
            know. Defaults to `warnings.warn`.

    Call: (logits `[B, T, V]`, frame lengths `[B]`) -> list of B str.

    Raises:
        UserError: where flashlight-text is not installed, the file is no language model or one of
            other entries, the list has no word that the vocabulary can spell, or a number is out
            of range.
    """

    def __init__(
        self,
        vocabulary,
        words=None,
        language_model=None,
        lm_weight=2.0,
        word_score=0.0,
        beam_size=100,
        beam_threshold=25.0,
        warn=warnings.warn,
    ):
        try:
            from flashlight.lib.text import decoder as flashlight
        except ImportError:
            raise UserError(
                "decoding: a beam search needs flashlight-text, which is not installed. "
                "pip install 'd2v_tf[lm]', or decode greedily."
            ) from None
        if beam_size < 1 or beam_threshold <= 0:
            raise UserError(
                "decoding: beam_size must be at least 1 and beam_threshold above 0. Received: "
                f"{beam_size} and {beam_threshold}"
            )
        self.vocabulary = tuple(vocabulary)
        if WORD_END not in self.vocabulary:
            raise UserError(f"decoding: the vocabulary has no {WORD_END!r} between words.")
        self._word_end = self.vocabulary.index(WORD_END)
        self._words = None
        common = {
            "beam_size": beam_size,
            "beam_size_token": len(self.vocabulary),
            "beam_threshold": beam_threshold,
            "lm_weight": lm_weight,
            "log_add": True,  # the sum over alignments, not their best
            "criterion_type": flashlight.CriterionType.CTC,
        }
        if words is None:
            model = _language_model(flashlight, language_model, self.vocabulary, OF_LETTERS, warn)
            options = flashlight.LexiconFreeDecoderOptions(sil_score=word_score, **common)
            self._decoder = flashlight.LexiconFreeDecoder(options, model, self._word_end, 0, [])
        else:
            self._words = _spellable(words, self.vocabulary, warn)
            entries = [*self._words, UNKNOWN]
            model = _language_model(flashlight, language_model, entries, OF_WORDS, warn)
            trie = self._trie(flashlight, model)
            options = flashlight.LexiconDecoderOptions(
                word_score=word_score, unk_score=float("-inf"), sil_score=0.0, **common
            )
            self._decoder = flashlight.LexiconDecoder(
                options, trie, model, self._word_end, 0, len(self._words), [], False
            )
        self._kept = (model, options)  # the search holds no reference of its own to them

    def __call__(self, logits, frame_lengths):
        log_probs = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
        log_probs = ops.convert_to_numpy(log_probs)
        lengths = ops.convert_to_numpy(frame_lengths)
        return [self._decode(row[:n]) for row, n in zip(log_probs, lengths, strict=True)]

    def _decode(self, log_probs):
        """The text of one example, `[T, V]`."""
        if not len(log_probs):
            return ""
        if self._words is not None:
            # A word of the list counts once the bar behind it is heard; the last may have none.
            end = np.full((1, log_probs.shape[1]), -1e4, "float32")
            end[0, self._word_end] = 0.0
            log_probs = np.concatenate([log_probs, end])
        log_probs = np.ascontiguousarray(log_probs, "float32")
        totals = {}
        for result in self._decoder.decode(log_probs.ctypes.data, *log_probs.shape):
            # The search keeps a text apart that ends in a blank, a bar or a letter.
            text = self._text(result)
            totals[text] = np.logaddexp(totals.get(text, -np.inf), result.score)
        return max(totals, key=totals.get, default="")

    def _text(self, result):
        if self._words is not None:
            return " ".join(self._words[i] for i in result.words if i >= 0)
        path = np.array(result.tokens)
        changed = np.concatenate([[True], path[1:] != path[:-1]])
        return decode_letters(path[changed & (path > 0)], self.vocabulary)

    def _trie(self, flashlight, model):
        """The words by their letters, each path with the best score of what it may become."""
        trie = flashlight.Trie(len(self.vocabulary), self._word_end)
        start = model.start(False)
        for number, spelled in enumerate(encode_letters(self._words, self.vocabulary)):
            _, score = model.score(start, number)
            trie.insert([*spelled.tolist(), self._word_end], number, score)
        trie.smear(flashlight.SmearingMode.MAX)
        return trie


def _spellable(words, vocabulary, warn):
    """The words of a list that a vocabulary has the letters for, sorted, each once."""
    words, letters = set(words), letters_in(vocabulary)
    known = sorted(word for word in words if letters.issuperset(word))
    if not words:
        raise UserError("decoding: the list of words to be heard has no words.")
    if not known:
        raise UserError(
            f"decoding: none of the {len(words):,} words to be heard (first: {min(words)!r}) can "
            f"be spelled with the model's letters, {''.join(sorted(letters))}. Spell them as the "
            "transcripts do that the model was trained on, case too."
        )
    if len(known) < len(words):
        left_out = sorted(words.difference(known))
        unknown = sorted(set("".join(left_out)) - letters)
        warn(
            f"{len(left_out):,} of the {len(words):,} words to be heard have letters that the "
            f"model does not know ({' '.join(unknown)}) and are left out (first: {left_out[0]!r})"
        )
    return known


# What a language model is of; the part of it that it has to know, since it is of something else
# where it knows less; and what else to give then.
OF_LETTERS = (
    "letters",
    0.5,
    "Is it a model of words? Give the list of these, too (--words=FILE; tools/prepare.py "
    "--lm_order writes words.txt beside the model), or a model of letters (--lm_letters there).",
)
OF_WORDS = (
    "words to be heard",
    0.05,  # a large list may stand beside a model of little text
    "Is it a model of letters, or of words that are spelled in another way, in capitals, say? Give "
    "a model of words and the list that belongs to it (tools/prepare.py --lm_order writes "
    "words.txt beside the model).",
)


def _language_model(flashlight, path, entries, kind, warn):
    """KenLM on a file, whose words are numbered as `entries`; or one that knows nothing."""
    if path is None:
        return flashlight.ZeroLM()
    if not os.path.isfile(path):
        raise UserError(f"decoding: the language model {path} is no file.")
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary

    dictionary = Dictionary()
    for entry in (*entries, NO_WORD):
        dictionary.add_entry(entry)
    try:
        model = KenLM(path, dictionary)
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"decoding: {path} cannot be read by KenLM ({reason}).") from None
    scores = [model.score(model.start(False), i)[1] for i in range(len(entries) + 1)]
    # Whatever it does not know is as improbable as what is no word.
    asked = [i for i, entry in enumerate(entries) if entry == WORD_END or entry not in SPECIALS]
    known = sum(scores[i] != scores[-1] for i in asked)
    what, least, hint = kind
    found = f"the language model {path} knows {known:,} of the {len(asked):,} {what}"
    if known < least * len(asked):
        raise UserError(f"decoding: {found}. {hint}")
    if 2 * known < len(asked):
        warn(f"{found}; to it all others are as improbable as what is no word")
    return model
