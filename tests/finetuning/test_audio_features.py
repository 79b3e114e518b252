"""The baseline of speech: statistics over the real samples of each utterance."""

import numpy as np

from d2v_tf.finetuning.audio_features import log_mel, log_mel_statistics


def test_statistics_are_of_each_utterance_without_its_padding():
    rng = np.random.default_rng(0)
    waves = [rng.normal(size=n).astype("float32") for n in (1600, 800, 1200)]
    padded = np.stack([np.pad(w, (0, 1600 - len(w)), constant_values=9.0) for w in waves])
    mask = np.arange(1600) < np.array([[len(w)] for w in waves])
    batches = [
        ({"waveform": padded[:2], "padding_mask": mask[:2]}, [4, 5]),
        ({"waveform": padded[2:], "padding_mask": mask[2:]}, [6]),
    ]
    features, labels = log_mel_statistics(batches)
    assert features.shape == (3, 80) and features.dtype == np.float32
    assert labels.tolist() == [4, 5, 6]
    for row, wave in zip(features, waves, strict=True):
        bands = log_mel(wave)
        np.testing.assert_allclose(row, [*bands.mean(axis=0), *bands.std(axis=0)], rtol=1e-5)


def test_an_empty_dataset_has_no_features():
    features, labels = log_mel_statistics([])
    assert len(features) == len(labels) == 0
