"""Transcripts as letters and back: what a CTC model's numbers mean."""

import collections

import numpy as np

from d2v_tf.data.reading import DataError

# Hugging Face's names and order, so that a vocab.json is one enumeration of the vocabulary.
BLANK, UNKNOWN, WORD_END = "<pad>", "<unk>", "|"
SPECIALS = (BLANK, "<s>", "</s>", UNKNOWN, WORD_END)


def letter_vocabulary(transcripts):
    """The letters of transcripts, as the data has them: case and every character are kept.

    Args:
        transcripts: iterable of str, words with spaces between.

    Returns:
        tuple of str: `<pad>`, which is the blank, `<s>`, `</s>`, `<unk>`, `|`, then the letters in
        the order of their code points.

    Raises:
        DataError: where there is no letter at all, or `|` is one.

    Example:
    >>> letter_vocabulary(["a cab"])
    ('<pad>', '<s>', '</s>', '<unk>', '|', 'a', 'b', 'c')
    """
    letters = sorted({letter for text in transcripts for letter in "".join(text.split())})
    if not letters:
        raise DataError("data: the transcripts have no letters: all are empty.")
    if WORD_END in letters:
        raise DataError(
            f"data: a transcript has the character {WORD_END!r}, which stands between words here. "
            "Replace it in the transcripts."
        )
    return (*SPECIALS, *letters)


def letters_in(vocabulary):
    """The entries of a vocabulary that are letters: a longer one stands for something else.

    Args:
        vocabulary: tuple of str.

    Returns:
        set of str, without `|`, which stands between words.
    """
    return {entry for entry in vocabulary if len(entry) == 1} - {WORD_END}


def count_unknown(transcripts, vocabulary):
    """Letters that a vocabulary lacks, so that a model of it never hears them.

    Args:
        transcripts: iterable of str.
        vocabulary: tuple of str.

    Returns:
        dict of letter to how often it is there, in the order of their code points.
    """
    counts = collections.Counter(letter for text in transcripts for letter in "".join(text.split()))
    return {letter: counts[letter] for letter in sorted(counts.keys() - letters_in(vocabulary))}


def encode_letters(transcripts, vocabulary):
    """Transcripts as numbers, `|` between words.

    Args:
        transcripts: list of str, words with spaces between; may be empty.
        vocabulary: tuple of str, with `|`.

    Returns:
        list of int32 arrays.

    Raises:
        DataError: names the letters that the vocabulary lacks, and the first transcript with one.
    """
    number = {entry: i for i, entry in enumerate(vocabulary)}
    lacking = count_unknown(transcripts, vocabulary)
    if lacking:
        example = next(text for text in transcripts if set(lacking) & set(text))
        raise DataError(
            f"data: the vocabulary has no {' '.join(map(repr, lacking))} (first in the transcript "
            f"{example[:60]!r}). Rewrite the transcripts with its letters: "
            f"{''.join(sorted(letters_in(vocabulary)))}"
        )

    def numbers(text):
        for place, word in enumerate(text.split()):
            if place:
                yield number[WORD_END]
            yield from (number[letter] for letter in word)

    return [np.fromiter(numbers(text), "int32") for text in transcripts]


def decode_letters(ids, vocabulary):
    """The words that numbers stand for: `|` is a space, and special entries are left out.

    Args:
        ids: ints, with repeats and blanks already merged (`decoding.greedy_ids`).
        vocabulary: tuple of str.

    Returns:
        str, words with one space between; `<unk>` stays, so that it counts as an error.
    """
    entries = [vocabulary[int(i)] for i in ids]
    silent = set(SPECIALS) - {UNKNOWN, WORD_END}
    text = "".join(e for e in entries if e not in silent)
    return " ".join(text.replace(WORD_END, " ").split())
