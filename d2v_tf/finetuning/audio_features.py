"""What a representation of speech has to beat: statistics of the log-mel spectrogram."""

import numpy as np
import tensorflow as tf

from d2v_tf.finetuning.probes import joined_features

SAMPLE_RATE = 16_000
FRAME, HOP = 400, 160  # 25 and 10 ms
NUM_BANDS = 40


def log_mel_statistics(dataset):
    """Mean and standard deviation over time of 40 log-mel bands of each utterance.

    Args:
        dataset: iterable of (`{"waveform": [B, N], "padding_mask": [B, N]}`, labels `[B]`).

    Returns:
        (float32 array `[N, 80]`, int array `[N]`).
    """
    features, labels = [], []
    for inputs, batch_labels in dataset:
        lengths = np.asarray(inputs["padding_mask"]).astype(bool).sum(axis=1)
        for waveform, length in zip(np.asarray(inputs["waveform"]), lengths, strict=True):
            bands = log_mel(waveform[:length])
            row = np.concatenate([bands.mean(axis=0), bands.std(axis=0)])
            features.append(row[None].astype("float32"))
        labels.append(np.asarray(batch_labels))
    return joined_features(features, labels)


def log_mel(waveform):
    """The log-mel spectrogram of a waveform, `[N]` at 16 kHz -> `[T, 40]`, a frame every 10 ms."""
    waveform = np.pad(waveform, (0, max(FRAME - len(waveform), 0)))
    frames = np.lib.stride_tricks.sliding_window_view(waveform, FRAME)[::HOP]  # [T, 400]
    power = np.abs(np.fft.rfft(frames * np.hanning(FRAME), axis=-1)) ** 2
    return np.log(power @ _mel_matrix() + 1e-6)


def _mel_matrix():
    return tf.signal.linear_to_mel_weight_matrix(
        NUM_BANDS, FRAME // 2 + 1, SAMPLE_RATE, 20.0, SAMPLE_RATE / 2
    ).numpy()
