"""Estimates an n-gram language model from text and writes it as an ARPA file, which KenLM reads."""

import collections
import gzip
import math
import os

from d2v_tf.data.documents import find_files
from d2v_tf.data.reading import DataError
from d2v_tf.data.writing import writing
from d2v_tf.finetuning.letters import WORD_END

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
# Of the discounts, where a text is so small or regular that the counts of counts give none; what
# KenLM's lmplz takes with --discount_fallback.
FALLBACK = (0.5, 1.0, 1.5)
# Log10 of the probability of what is never predicted: the start of a sentence.
NEVER = -99.0


def estimate_ngrams(sentences, order):
    """Interpolated modified Kneser-Ney (Chen and Goodman 1998), as KenLM's lmplz estimates it.

    Every sentence stands between `<s>` and `</s>`. Below the highest order a word counts as often
    as there are different words before it, so that a word that only ever follows one other is not
    taken for a common one. Nothing is pruned. The lowest order is interpolated with the uniform
    distribution over all words, `</s>` and `<unk>`, which gives `<unk>` its probability.

    Args:
        sentences: iterable of lists of str, the words; no word has white space in it.
        order: int, at least 1. The longest n-grams.

    Returns:
        A list of one dict an order, unigrams first: a tuple of words to (log10 of its probability,
        log10 of its back-off weight). An n-gram that is no context has back-off weight 0.

    Raises:
        DataError: for an order below 1, no text, or a word that is one of the three above.
    """
    if order < 1:
        raise DataError(f"an n-gram model has at least order 1. Received: order={order}")
    counts = _adjusted_counts(sentences, order)
    vocabulary = [gram for gram in counts[0] if gram != (START,)] + [(UNKNOWN,)]
    uniform = 1 / len(vocabulary)
    tables, lower = [], None
    for n, grams in enumerate(counts, 1):
        discounts = _discounts(grams.values())
        totals, kept = collections.Counter(), collections.Counter()
        for gram, count in grams.items():
            if gram != (START,):
                totals[gram[:-1]] += count
                kept[gram[:-1]] += discounts[min(count, 3)]
        probabilities = {}
        for gram, count in grams.items():
            if gram == (START,):
                continue
            context = gram[:-1]
            left = (count - discounts[min(count, 3)]) / totals[context]
            rest = uniform if n == 1 else lower[gram[1:]]
            probabilities[gram] = left + kept[context] / totals[context] * rest
        if n == 1:
            probabilities[(UNKNOWN,)] = kept[()] / totals[()] * uniform
        else:
            for context, total in totals.items():
                probability, _ = tables[-1][context]
                tables[-1][context] = (probability, math.log10(kept[context] / total))
        tables.append({gram: (math.log10(p), 0.0) for gram, p in probabilities.items()})
        if n == 1:
            tables[0][(START,)] = (NEVER, 0.0)
        lower = probabilities
    return tables


def score_sentence(tables, words):
    """Log10 of the probability of each word after those before it, and of the sentence's end.

    What KenLM answers for the file: the longest n-gram that there is, times the back-off weight of
    each context that had to be shortened.

    Args:
        tables: as `estimate_ngrams` gives them.
        words: list of str.

    Returns:
        list of floats, one more than there are words.
    """
    order = len(tables)
    known = [word if (word,) in tables[0] else UNKNOWN for word in words]
    history, scores = (START,), []
    for word in [*known, END]:
        context, score = history[-(order - 1) :] if order > 1 else (), 0.0
        while (*context, word) not in tables[len(context)]:
            if context in tables[len(context) - 1]:
                score += tables[len(context) - 1][context][1]
            context = context[1:]
        scores.append(score + tables[len(context)][(*context, word)][0])
        history = (*history, word)
    return scores


def write_arpa(tables, path):
    """Writes a model as an ARPA file, sorted, so that the same text gives the same bytes.

    Raises:
        DataError: where the file cannot be written.
    """
    with writing(path), open(path, "w", encoding="utf-8") as file:
        file.write("\\data\\\n")
        for n, table in enumerate(tables, 1):
            file.write(f"ngram {n}={len(table)}\n")
        for n, table in enumerate(tables, 1):
            file.write(f"\n\\{n}-grams:\n")
            for gram, (probability, backoff) in sorted(table.items()):
                weight = f"\t{backoff:.7g}" if n < len(tables) else ""
                file.write(f"{probability:.7g}\t{' '.join(gram)}{weight}\n")
        file.write("\n\\end\\\n")


def prepare_ngrams(spec, out, order, letters, console):
    """Estimates a model from text files and writes it; `tools/prepare.py --lm_order`.

    Beside a model of words, `words.txt` has all words that it knows, one a line: what a beam search
    with the model can hear.

    Args:
        spec: str. `text:` and a path or a glob of files, plain or `.gz`, a sentence a line, with
            the words as the transcripts have them.
        out: str. The ARPA file.
        order: int.
        letters: bool. Whether the model is of letters, with `|` between words.
        console: `rich` console.

    Raises:
        DataError: where there is no text, or a file exists or cannot be written.
    """
    scheme, _, pattern = spec.partition(":")
    if scheme != "text":
        raise DataError(
            f"data: an n-gram model is estimated from text:GLOB, a sentence a line. "
            f"Received: {spec!r}"
        )
    if os.path.exists(out):
        raise DataError(f"data: {out} exists already. Remove it, or choose another --out.")
    sentences = [words for path in find_files(pattern) for words in _read_sentences(path)]
    if letters:
        sentences = [list(WORD_END.join(words)) for words in sentences]
    else:
        word_list, words = os.path.join(os.path.dirname(out), "words.txt"), _words_of(sentences)
        if os.path.exists(word_list) and _read_sentences(word_list) != [[word] for word in words]:
            raise DataError(
                f"data: {word_list} has other words, of another model. Remove it, or choose an "
                "--out in another folder."
            )
    tables = estimate_ngrams(sentences, order)
    write_arpa(tables, out)
    counts = ", ".join(f"{len(table):,}" for table in tables)
    unit = "letters" if letters else "words"
    console.print(f"{len(sentences):,} sentences; n-grams of 1 to {order} {unit}: {counts}")
    console.print(f"language model: {out}", markup=False)
    if not letters:
        with writing(word_list), open(word_list, "w", encoding="utf-8") as file:
            file.writelines(f"{word}\n" for word in words)
        console.print(f"its {len(words):,} words, for --words: {word_list}", markup=False)


def _words_of(sentences):
    """Each word once, sorted."""
    return sorted({word for sentence in sentences for word in sentence})


def _read_sentences(path):
    """Lists of the words of each line that has any."""
    opener = gzip.open if path.endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8-sig") as file:
            return [line.split() for line in file if line.strip()]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"data: {path} cannot be read as text ({error}).") from None


def _adjusted_counts(sentences, order):
    """Counts of each order: of the highest as they are, below of the words that stand before."""
    counts = [collections.Counter() for _ in range(order)]
    empty = True
    for words in sentences:
        for word in words:
            if word in (START, END, UNKNOWN):
                raise DataError(f"the text of an n-gram model has the word {word!r}; remove it.")
        empty = empty and not words
        padded = (START, *words, END)
        for n in range(1, order + 1):
            counts[n - 1].update(zip(*(padded[i:] for i in range(n)), strict=False))
    if empty:
        raise DataError("the text of an n-gram model has no words.")
    for n in range(order - 1, 0, -1):
        different = collections.Counter(gram[1:] for gram in counts[n])
        # Nothing stands before the start of a sentence: such n-grams keep their counts.
        for gram in counts[n - 1]:
            if gram[0] != START:
                counts[n - 1][gram] = different[gram]
    return counts


def _discounts(counts):
    """What is taken off a count of 0, 1, 2, and 3 or more."""
    number = collections.Counter(counts)
    if not all(number[c] for c in (1, 2, 3, 4)):
        return (0.0, *FALLBACK)
    y = number[1] / (number[1] + 2 * number[2])
    discounts = [c - (c + 1) * y * number[c + 1] / number[c] for c in (1, 2, 3)]
    if not all(0 < d <= c for c, d in enumerate(discounts, 1)):
        return (0.0, *FALLBACK)
    return (0.0, *discounts)
