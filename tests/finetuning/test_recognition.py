"""Error rates against an edit distance written out, and what is empty."""

import numpy as np
import pytest

from d2v_tf.finetuning.recognition import count_errors, evaluate_ctc
from tests.finetuning.tiny_ctc import batch, ctc_model


def edit_distance(a, b):
    row = np.arange(len(b) + 1)
    for i, x in enumerate(a, 1):
        previous, row = row, np.full(len(b) + 1, i)
        for j, y in enumerate(b, 1):
            row[j] = min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (x != y))
    return int(row[-1])


def test_rates_are_edit_distances_over_all_utterances():
    rng = np.random.default_rng(0)
    words = ["one", "two", "three", "Two", "two."]

    def sentence(least):
        return " ".join(words[i] for i in rng.integers(0, 5, rng.integers(least, 9)))

    samples = [(sentence(1), sentence(0)) for _ in range(40)]
    report = count_errors(samples)
    by_word = sum(edit_distance(r.split(), h.split()) for r, h in samples)
    by_letter = sum(edit_distance(r, h) for r, h in samples)
    num_words = sum(len(r.split()) for r, _ in samples)
    assert (report.word_errors, report.words) == (by_word, num_words)
    assert report.wer == pytest.approx(by_word / num_words)
    assert report.cer == pytest.approx(by_letter / sum(len(r) for r, _ in samples))
    assert report.empty_hypotheses == sum(not h for _, h in samples) > 0
    assert report.samples == samples and report.utterances == 40


def test_what_is_heard_in_silence_is_inserted():
    report = count_errors([("", "a bc"), ("two words", "two words"), (" ", "")])
    assert (report.word_errors, report.words) == (2, 2)
    assert (report.character_errors, report.characters) == (4, 9)
    assert report.wer == 1 and report.empty_references == 2 and report.empty_hypotheses == 1


@pytest.mark.parametrize(("heard", "rate"), [("", 0.0), ("a", float("inf"))])
def test_no_reference_word_at_all(heard, rate):
    report = count_errors([("", heard)])
    assert report.wer == report.cer == rate


def test_nothing_at_all():
    assert count_errors([]).utterances == 0 and count_errors([]).wer == 0


def test_evaluation_decodes_real_frames_and_finds_each_utterances_transcript():
    model = ctc_model()
    inputs, _ = batch()
    transcripts = ["a", "not asked for", "b c", "cab"]
    seen = []

    def decode(logits, lengths):
        seen.append((np.shape(logits), np.asarray(lengths).tolist()))
        return [f"{int(n)}" for n in np.asarray(lengths)]

    report = evaluate_ctc(model, [(inputs, np.array([3, 0, 2]))], transcripts, decode)
    assert report.samples == [("cab", "30"), ("a", "17"), ("b c", "6")]
    assert seen == [((3, 30, 8), [30, 17, 6])]
    greedy = evaluate_ctc(model, [(inputs, np.array([3, 0, 2]))], transcripts)
    assert [r for r, _ in greedy.samples] == ["cab", "a", "b c"] and greedy.words == 4
