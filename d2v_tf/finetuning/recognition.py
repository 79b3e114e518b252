"""How well a CTC model recognises speech: word and letter error rates."""

import dataclasses

import jiwer
import keras

from d2v_tf.finetuning.decoding import GreedyDecoder


@dataclasses.dataclass(frozen=True)
class RecognitionReport:
    """The errors of a model on a set of utterances.

    Attributes:
        wer: float. Substituted, left out and inserted words a reference word; may exceed 1.
        cer: float. The same of characters, spaces between words counted.
        samples: list of (reference, hypothesis), all of them, in the order of the dataset.
        utterances, words, characters: ints. How many there are in the references.
        word_errors, character_errors: ints.
        empty_references: int. Utterances without a word; all that is heard in them is inserted.
        empty_hypotheses: int. Utterances in which nothing is heard.
    """

    wer: float
    cer: float
    samples: list[tuple[str, str]]
    utterances: int
    words: int
    characters: int
    word_errors: int
    character_errors: int
    empty_references: int
    empty_hypotheses: int


def recognizer(model, decode=None):
    """A function of a CTC model's inputs to what it hears in them: a list of B str.

    Args:
        model: `Data2VecSpeechCTC`.
        decode: optional function of (logits `[B, T, V]`, frame lengths `[B]`) to a list of B str.
            Defaults to `GreedyDecoder`.
    """
    decode = decode or GreedyDecoder(model.vocabulary)

    def recognize(inputs):
        # Not the task's own, which would apply its preprocessor to what is ready.
        logits = keras.Model.predict_on_batch(model, inputs)
        return decode(logits, model.frame_lengths(inputs))

    return recognize


def evaluate_ctc(model, dataset, transcripts, decode=None):
    """Recognises each utterance and counts the errors.

    Args:
        model: `Data2VecSpeechCTC`.
        dataset: iterable of (inputs, `[B]` ints, the utterances' places in `transcripts`), as
            `d2v_tf.data.transcribed.recognition_dataset` gives it.
        transcripts: list of str. The references.
        decode: as for `recognizer`.

    Returns:
        `RecognitionReport`.
    """
    recognize = recognizer(model, decode)
    samples = []
    for inputs, indices in dataset:
        references = [transcripts[int(i)] for i in indices]
        samples += zip(references, recognize(inputs), strict=True)
    return count_errors(samples)


def count_errors(samples):
    """Word and letter errors of pairs of (reference, hypothesis), by jiwer.

    Words are compared as they are, case and punctuation included; white space parts them. In an
    utterance without a reference word every word of the hypothesis is an insertion.

    Args:
        samples: list of (str, str).

    Returns:
        `RecognitionReport`. Without a single reference word the rates are 0 if nothing was heard
        and infinite otherwise.
    """
    samples = [(" ".join(r.split()), " ".join(h.split())) for r, h in samples]
    spoken = [(reference, hypothesis) for reference, hypothesis in samples if reference]
    # jiwer refuses empty references: their hypotheses are counted here.
    silent = [hypothesis for reference, hypothesis in samples if not reference]
    words, word_errors = 0, sum(len(h.split()) for h in silent)
    characters, character_errors = 0, sum(len(h) for h in silent)
    if spoken:
        references, hypotheses = map(list, zip(*spoken, strict=True))
        by_word = jiwer.process_words(references, hypotheses)
        by_character = jiwer.process_characters(references, hypotheses)
        words, errors = _totals(by_word)
        word_errors += errors
        characters, errors = _totals(by_character)
        character_errors += errors
    return RecognitionReport(
        wer=_rate(word_errors, words),
        cer=_rate(character_errors, characters),
        samples=samples,
        utterances=len(samples),
        words=words,
        characters=characters,
        word_errors=word_errors,
        character_errors=character_errors,
        empty_references=len(silent),
        empty_hypotheses=sum(not hypothesis for _, hypothesis in samples),
    )


def _totals(output):
    """Reference units and errors of what jiwer gives."""
    found = output.hits + output.substitutions + output.deletions
    return found, output.substitutions + output.deletions + output.insertions


def _rate(errors, total):
    if total:
        return errors / total
    return float("inf") if errors else 0.0
