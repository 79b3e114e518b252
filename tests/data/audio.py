"""Audio that the data tests write, and stand-ins for what a backbone gives."""

import numpy as np
import soundfile
import tensorflow as tf

RATE = 16_000


def tone(frequency, seconds, rate=RATE, channels=1):
    """A sine, float32 `[N]` or `[N, C]`; the channels' loudness differs, their mean is 0.5."""
    wave = np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)
    if channels == 1:
        return (0.5 * wave).astype("float32")
    return (wave[:, None] * np.linspace(0.3, 0.7, channels)).astype("float32")


def noise(seed, seconds):
    """White noise, float32 `[N]` at 16 kHz, each sample a whole number of 1/32768."""
    rng = np.random.default_rng(seed)
    return (rng.integers(-8000, 8000, round(seconds * RATE)) / 32768).astype("float32")


def write_tree(root, seconds, classes=("ann", "bob"), ending="wav"):
    """Writes utterances of these lengths into class folders; returns their paths in order."""
    paths = []
    for i, length in enumerate(seconds):
        folder = root / classes[i % len(classes)]
        folder.mkdir(parents=True, exist_ok=True)
        paths.append(folder / f"{i:04}.{ending}")
        soundfile.write(paths[-1], noise(i, length), RATE)
    return sorted(paths)


def write_manifest(path, rows, root="."):
    """Writes a manifest of (path, frames)."""
    path.write_text("".join([f"{root}\n", *(f"{name}\t{frames}\n" for name, frames in rows)]))
    return f"manifest:{path}"


def normalized(wave):
    """Zero mean and unit variance, in float64."""
    wave = wave.astype("float64")
    return (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)


def num_frames(samples):
    """Frames of an encoder with windows of 400 samples every 320."""
    return (samples - 400) // 320 + 1


def random_mask(seeds, lengths, total):
    """A mask in the manner of `span_mask`: bool `[B, T]` from seeds `[B, 2]`, never on padding."""
    draws = tf.map_fn(
        lambda seed: tf.random.stateless_uniform([total], seed),
        seeds,
        fn_output_signature=tf.TensorSpec([total], tf.float32),
    )
    return (draws < 0.5) & tf.sequence_mask(lengths, total)
