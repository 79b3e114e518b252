"""A tiny model learns half a dozen utterances by heart, with nothing but compile and fit."""

import functools

import keras
import numpy as np
import pytest
import soundfile

from d2v_tf.backbones.speech import Data2VecSpeechBackbone
from d2v_tf.data.audio_files import SAMPLE_RATE
from d2v_tf.data.reading import BadExamples
from d2v_tf.data.speech_sources import open_speech_source
from d2v_tf.data.synthetic_speech import NUM_SPEAKERS, utterance
from d2v_tf.data.transcribed import (
    recognition_dataset,
    trainable_utterances,
    transcribed_dataset,
)
from d2v_tf.finetuning.ctc import Data2VecSpeechCTC
from d2v_tf.finetuning.letters import encode_letters, letter_vocabulary
from d2v_tf.finetuning.recognition import evaluate_ctc


@pytest.fixture
def source(tmp_path):
    """Six utterances of the built-in voices, two to six digits each."""
    rows, texts = ["."], []
    for place in range(6):
        waveform, words, _ = utterance("train", NUM_SPEAKERS + place % 10 + 20 * (place // 10))
        soundfile.write(tmp_path / f"{place}.wav", waveform, SAMPLE_RATE)
        rows.append(f"{place}.wav\t{len(waveform)}")
        texts.append(" ".join(words))
    (tmp_path / "all.tsv").write_text("\n".join(rows))
    (tmp_path / "all.wrd").write_text("\n".join(texts))
    return open_speech_source(f"manifest:{tmp_path}/all.tsv")


@pytest.mark.slow  # some hundred updates
def test_it_reads_half_a_dozen_utterances_back(source):
    backbone = Data2VecSpeechBackbone(
        num_layers=2,
        hidden_dim=64,
        num_heads=4,
        intermediate_dim=128,
        conv_dims=[32] * 4,
        conv_kernel_sizes=[10, 8, 4, 4],
        conv_strides=[5, 4, 4, 4],
        position_conv_layers=2,
        position_conv_kernel_size=9,
        position_conv_groups=4,
    )
    vocabulary = letter_vocabulary(source.transcripts)
    model = Data2VecSpeechCTC(backbone, vocabulary, time_mask_ratio=0.0, channel_mask_ratio=0.0)
    bad = BadExamples(source.name, source.num_examples)
    encode = functools.partial(encode_letters, vocabulary=vocabulary)
    training, labels = trainable_utterances(source, encode, backbone.feature_lengths, bad)
    assert training.num_examples == 6
    data = transcribed_dataset(
        training, labels, batch_seconds=25, seed=0, start=0, bad_examples=bad, buckets=1
    )
    heard = recognition_dataset(source, batch_seconds=60, bad_examples=bad, buckets=1).cache()
    model.compile(keras.optimizers.Adam(2e-3, global_clipnorm=5.0))
    assert evaluate_ctc(model, heard, source.transcripts).wer >= 0.9
    history = model.fit(data, steps_per_epoch=200, shuffle=False, verbose=0).history
    report = evaluate_ctc(model, heard, source.transcripts)
    assert report.wer == report.cer == 0, (history, report.samples)
    assert {reference for reference, _ in report.samples} == set(source.transcripts)
    assert np.isfinite(history["loss"]).all() and history["too_long"] == [0]
