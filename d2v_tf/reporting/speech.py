"""What is shown of recordings: waveforms, spectrograms, and colors of their frames."""

import numpy as np
import tensorflow as tf

from d2v_tf.finetuning.audio_features import SAMPLE_RATE, log_mel
from d2v_tf.reporting.features import attention_of, without_padding
from d2v_tf.reporting.figures import (
    COLORS,
    colored,
    draw,
    enlarged,
    escape,
    image,
    principal_colors,
)

# A minute or so of a small backbone's time would be too long for the end of a run.
NUM_EXAMPLES, NUM_MASKED, NUM_DRAWN = 100, 3, 3
# Frames of speech are drawn by the 40 bands of a spectrogram above each other, lowest first.
STRIP = 12
COLUMNS = 800
# A small picture on the page: so many pixels high, and so many wide a second, up to a limit.
HEIGHT, WIDTH, WIDEST = 56, 40, 150


def masks(batch, data):
    """Waveforms and spectrograms with the spans that are hidden from the student, as HTML."""
    drawn = []
    for row in range(min(NUM_MASKED, len(batch["mask"]))):
        waveform = without_padding(_inputs(batch), row)["waveform"]
        mask, total = np.asarray(batch["mask"][row]), batch["waveform"].shape[1]
        seconds = np.array(spans(mask)) * total / len(mask) / SAMPLE_RATE
        label = "waveform and spectrogram; shaded spans are hidden from the student"
        drawn.append(draw(lambda f, w=waveform, s=seconds: _masked(f, w, s), 8.5, 2.6, label))
    return "".join(f"<figure>{svg}</figure>" for svg in drawn)


def features(seen, backbone, data):
    """Spectrograms, colors of their frames and attention between frames, as HTML."""
    parts = []
    colors = principal_colors(seen.hidden)
    for index, rgb in list(zip(seen.mapped, colors, strict=True))[::2][:NUM_DRAWN]:
        example = seen.inputs[index]
        attention = attention_of(backbone, example)
        svg = draw(
            lambda f, e=example, c=rgb, a=attention: _features(f, e["waveform"], c, a),
            8.5, 3.0, "spectrogram, colors of the features below it, attention between frames",
        )  # fmt: skip
        caption = f"<figcaption>{escape(seen.label(index))}</figcaption>"
        parts.append(f"<figure>{svg}{caption}</figure>")
    return "".join(parts)


def thumbnail(example, data):
    """One recording's spectrogram, as HTML."""
    pixels = spectrogram(example["waveform"])
    width = min(WIDEST, WIDTH * len(example["waveform"]) // SAMPLE_RATE)
    return image(pixels, "spectrogram", width=width, height=HEIGHT)


def spectrogram(waveform):
    """A log-mel spectrogram as a picture: `[N]` -> uint8 `[40, T, 3]`, low tones at the bottom."""
    return colored(levels(waveform))


def levels(waveform):
    """A log-mel spectrogram, high tones first: `[N]` -> float `[40, T]`."""
    bands = log_mel(waveform).T[::-1]
    return np.maximum(bands, np.percentile(bands, 5))  # silence would leave the rest without colors


def spans(mask):
    """The runs of True: bool `[T]` -> list of (first, one past the last)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype("int8"), [0]])))
    return list(zip(edges[::2], edges[1::2], strict=True))


def summarize_masks(batch, data):
    """Writes spectrograms to TensorBoard, darker where they are hidden from the student."""
    for row, mask in enumerate(np.asarray(batch["mask"])):
        waveform = np.asarray(batch["waveform"][row])
        pixels = spectrogram(waveform)
        hidden = mask[np.arange(pixels.shape[1]) * len(mask) // pixels.shape[1]]
        pixels = np.where(hidden[None, :, None], pixels // 4, pixels)
        tf.summary.image(f"masks/{row}", enlarged(pixels, 3)[None])


def summarize_features(batch, targets, data):
    """Writes spectrograms above the colors of their targets to TensorBoard."""
    for row, colors in enumerate(principal_colors(list(targets))):
        pixels = spectrogram(np.asarray(batch["waveform"][row]))
        width = pixels.shape[1]
        strip = colors[np.arange(width) * len(colors) // width]
        both = np.concatenate([pixels, np.repeat(strip[None], STRIP, axis=0)])
        tf.summary.image(f"features/{row}", enlarged(both, 3)[None])


def _inputs(batch):
    return {name: np.asarray(batch[name]) for name in ("waveform", "padding_mask")}


def _masked(figure, waveform, seconds):
    wave, tones = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.6))
    # As many points as the picture has columns: from the lowest to the highest sample of each.
    step = max(1, len(waveform) // COLUMNS)
    parts = waveform[: len(waveform) // step * step].reshape(-1, step)
    time = np.arange(len(parts)) * step / SAMPLE_RATE
    wave.fill_between(time, parts.min(axis=1), parts.max(axis=1), color=COLORS[0], linewidth=0.4)
    wave.set_xlim(0, len(waveform) / SAMPLE_RATE)
    wave.set_ylabel("waveform")
    _show_levels(tones, waveform)
    for axes, color in ((wave, "#e07b1a"), (tones, "#ffffff")):
        for first, last in seconds:
            axes.axvspan(first, last, color=color, alpha=0.35, linewidth=0)
    tones.set_xlabel("seconds")


def _show_levels(axes, waveform):
    length = len(waveform) / SAMPLE_RATE
    axes.imshow(
        levels(waveform), aspect="auto", cmap="magma", extent=(0, length, 0, 40),
        interpolation="nearest",
    )  # fmt: skip
    axes.grid(False)
    axes.set_yticks([])
    axes.set_ylabel("mel bands")


def _features(figure, waveform, colors, attention):
    left, right = figure.subfigures(1, 2, width_ratios=(2.2, 1))
    for part in (left, right):
        part.set_facecolor("none")
    tones, strip = left.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _show_levels(tones, waveform)
    length = len(waveform) / SAMPLE_RATE
    strip.imshow(colors[None], aspect="auto", extent=(0, length, 0, 1), interpolation="nearest")
    strip.grid(False)
    strip.set_yticks([])
    strip.set_ylabel("features")
    strip.set_xlabel("seconds")
    axes = right.subplots()
    axes.imshow(
        attention, cmap="magma", vmax=np.percentile(attention, 99.5),
        extent=(0, length, length, 0), interpolation="nearest",
    )  # fmt: skip
    axes.grid(False)
    axes.set_title("attention")
    axes.set_xlabel("to, s")
    axes.set_ylabel("from, s")
