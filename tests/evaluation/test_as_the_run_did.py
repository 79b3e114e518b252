"""What is measured is what a fine-tuning run measures: lengths of texts and of recordings."""

import numpy as np
import pytest
import soundfile

import d2v_tf
from d2v_tf.data import audio_labelled, text_labelled
from d2v_tf.data.labelled_sources import read_labelled
from d2v_tf.data.reading import BadExamples
from d2v_tf.data.speech_sources import open_speech_source
from d2v_tf.data.tokenization import train_tokenizer
from d2v_tf.evaluation.examples import open_examples
from d2v_tf.evaluation.measure import measure
from d2v_tf.evaluation.predictions import predict_examples
from d2v_tf.finetuning.text_preprocessor import Data2VecTextClassifierPreprocessor
from d2v_tf.interop.run_recipe import measured_seconds, trained_on_pairs
from d2v_tf.training.labelled_data import predict
from tests.data.audio import noise
from tests.interop.tiny import make_backbone


def losses_of(logits, labels):
    """Sorted cross-entropies of a run's own evaluation."""
    return np.sort(np.logaddexp.reduce(logits, axis=1) - (logits * labels).sum(axis=1))[::-1]


def test_texts_are_cut_to_the_length_that_was_trained(tmp_path):
    rows = [f"{'a cat sat on a mat ' * i}end {i}\t{i % 2}" for i in range(1, 7)]
    (tmp_path / "t.tsv").write_text("sentence\tlabel\n" + "\n".join(rows) + "\n")
    tokenizer = train_tokenizer(["a cat sat on a mat"], 275)
    backbone = make_backbone(
        "text", vocabulary_size=tokenizer.vocabulary_size, max_sequence_length=40
    )
    task = d2v_tf.Data2VecTextClassifier(backbone, 2, class_names=("0", "1"))
    task.preprocessor = Data2VecTextClassifierPreprocessor(tokenizer.in_graph(), sequence_length=9)
    tokenized = text_labelled.tokenize(read_labelled(f"{tmp_path}/t.tsv"), tokenizer, 9)
    assert tokenized.num_cut
    expected = predict(task, text_labelled.evaluation_dataset(tokenized, batch_size=4))
    examples = open_examples(backbone, f"table:{tmp_path}/t.tsv")
    found = measure(task, tokenizer.in_graph(), examples)
    losses = [loss for *_, loss in found.worst]
    np.testing.assert_allclose(losses, losses_of(*expected), rtol=1e-4)


def test_of_long_recordings_the_middle_is_taken(tmp_path):
    for name, seconds, rate in (("x/0", 0.3, 16_000), ("y/1", 0.11, 8_000), ("x/2", 0.05, 16_000)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        wave = noise(len(name), seconds * rate / 16_000)
        soundfile.write(tmp_path / f"{name}.wav", wave, rate)
    task = d2v_tf.Data2VecAudioClassifier(
        make_backbone("speech_invariant"), 2, class_names=("x", "y")
    )
    source = open_speech_source(f"folder:{tmp_path}")
    bad = BadExamples("x", 3)
    options = {"class_names": ("x", "y"), "batch_seconds": 1.0, "max_seconds": 0.1}
    batches = audio_labelled.evaluation_dataset(source, bad_examples=bad, **options)
    expected = losses_of(*predict(task, batches))
    told = []
    examples = open_examples(task.backbone, f"folder:{tmp_path}", max_seconds=0.1, warn=told.append)
    found = measure(task, d2v_tf.Data2VecAudioConverter(), examples)
    np.testing.assert_allclose([loss for *_, loss in found.worst], expected, rtol=1e-4)
    assert told == [
        "2 of 3 recordings are longer than 0.1 s: their middle is taken, as the model's run did"
    ]
    one = open_examples(task.backbone, f"{tmp_path}/x/0.wav", max_seconds=0.1)
    assert len(one.read(0)) == 1600


def test_a_recording_too_short_for_a_frame_is_left_out(tmp_path):
    soundfile.write(tmp_path / "0.wav", noise(0, 0.1), 16_000)
    soundfile.write(tmp_path / "1.wav", np.zeros(5), 16_000)
    task = d2v_tf.Data2VecAudioClassifier(make_backbone("speech_invariant"), 2)
    examples, told = open_examples(task.backbone, f"folder:{tmp_path}"), []
    said = predict_examples(
        task, d2v_tf.Data2VecAudioConverter(), examples, max_bad=0.5, warn=told.append
    )
    assert len(said) == 1 and "1.wav is skipped: it is 0.000313 s long" in told[0]


@pytest.mark.parametrize(
    ("recipe", "seconds", "pairs"),
    [
        ("modality: speech\ntask: classify\ndata: {max_seconds: 4.0}", 4.0, False),
        ("modality: speech\ntask: tag\ndata: {max_seconds: 20.0}", 20.0, False),
        ("modality: speech\ntask: ctc\ndata: {max_seconds: 20.0}", None, False),
        ("modality: text\ntask: glue:rte\ndata: {max_length: 4}", None, True),
        ("modality: speech\ndata: {max_seconds: 10.0}", None, None),  # pre-training
        ("", None, None),
    ],
)
def test_what_a_run_says_of_its_input(recipe, seconds, pairs, tmp_path):
    (tmp_path / "config.yaml").write_text(recipe)
    for path in (tmp_path, tmp_path / "preset"):
        assert measured_seconds(path) == seconds and trained_on_pairs(path) is pairs
    assert measured_seconds(tmp_path / "elsewhere" / "preset") is None
