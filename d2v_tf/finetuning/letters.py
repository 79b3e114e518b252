"""Transcripts as letters and back: what a CTC model's numbers mean."""

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


def encode_letters(transcripts, vocabulary, allow_unknown=False):
    """Transcripts as numbers, `|` between words.

    Args:
        transcripts: list of str, words with spaces between; may be empty.
        vocabulary: tuple of str, with `|`.
        allow_unknown: bool. Whether a letter that the vocabulary lacks becomes `<unk>`.

    Returns:
        list of int32 arrays.

    Raises:
        DataError: names the letters that the vocabulary lacks, and the first transcript with one.
    """
    number = {entry: i for i, entry in enumerate(vocabulary)}
    # A longer entry stands for something else, and so does the bar.
    letters = {entry for entry in vocabulary if len(entry) == 1} - {WORD_END}
    lacking = sorted({letter for text in transcripts for letter in "".join(text.split())} - letters)
    if lacking and not (allow_unknown and UNKNOWN in number):
        example = next(text for text in transcripts if set(lacking) & set(text))
        raise DataError(
            f"data: the vocabulary has no {' '.join(map(repr, lacking))} (first in the transcript "
            f"{example[:60]!r}). Rewrite the transcripts with its letters: "
            f"{''.join(sorted(letters))}"
        )

    def numbers(text):
        for place, word in enumerate(text.split()):
            if place:
                yield number[WORD_END]
            yield from (number[letter if letter in letters else UNKNOWN] for letter in word)

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


def pad_labels(encoded, length=None):
    """Arrays of different lengths as one: int32 `[B, L]`, -1 behind each; L is at least 1.

    Args:
        encoded: list of int arrays.
        length: optional int. L; the longest array's length by default.
    """
    length = max(1, *(len(row) for row in encoded)) if length is None else length
    labels = np.full((len(encoded), length), -1, "int32")
    for row, numbers in zip(labels, encoded, strict=True):
        row[: len(numbers)] = numbers
    return labels
