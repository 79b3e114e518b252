"""What turns images and waveforms into a backbone's input; saved with it in a preset."""

import keras
import numpy as np
from keras_hub.layers import AudioConverter, ImageConverter

from d2v_tf.backbones.speech import Data2VecSpeechBackbone
from d2v_tf.backbones.vision import Data2VecVisionBackbone

# What Hugging Face's feature extractor adds to the variance.
EPSILON = 1e-7
# Of every published speech model.
SAMPLE_RATE = 16_000
# An array whose last axis is no longer than this has channels there, not samples: not even the
# smallest of these waveforms gives a frame.
MOST_CHANNELS = 8


class CenterCropResizing(keras.layers.Resizing):
    """With `crop_to_aspect_ratio`, resizes the shorter side and cuts the longer one to the center.

    Keras cuts first: other sides are rounded, and the border is resized without what lies behind
    it. Keras rounds the pixels of images of whole numbers, too; here they stay fractions.
    """

    def transform_images(self, images, transformation=None, training=True):
        images = self.backend.cast(images, self.compute_dtype)
        if not self.crop_to_aspect_ratio:
            return super().transform_images(images, transformation, training)
        shape = list(self.backend.shape(images))
        height, width = shape[self.height_axis], shape[self.width_axis]
        is_known = isinstance(height, int) and isinstance(width, int)  # not so in most of tf.data
        largest = max if is_known else self.backend.numpy.maximum
        # The sides of the whole image in whole numbers: (2 a + b) // (2 b) rounds a / b.
        new_height = largest(self.height, (2 * height * self.width + width) // (2 * width))
        new_width = largest(self.width, (2 * width * self.height + height) // (2 * height))
        shrinks = not is_known or new_height < height or new_width < width
        images = self.backend.image.resize(
            images,
            size=(new_height, new_width),
            interpolation=self.interpolation,
            antialias=self.antialias and shrinks,  # five times as fast without
            data_format=self.data_format,
        )
        top, left = (new_height - self.height) // 2, (new_width - self.width) // 2
        window = (..., slice(top, top + self.height), slice(left, left + self.width))
        if self.data_format == "channels_last":
            window = (*window, slice(None))
        shape[self.height_axis], shape[self.width_axis] = self.height, self.width
        return self.backend.numpy.reshape(images[window], shape)  # sides known in graphs, too


@keras.saving.register_keras_serializable(package="d2v_tf")
class Data2VecImageConverter(ImageConverter):
    """Resizes and normalizes images as they were in pre-training.

    Exactly as `d2v_tf.data.vision.evaluation_dataset` does, on which a run is probed.

    Args:
        image_size: optional (int, int). Height and width of the result; without, nothing is
            resized.
        scale, offset: floats, one or one a channel. Pixels are multiplied by the first, then the
            second is added.
        antialias: bool. Whether an image that gets smaller is smoothed. Defaults to `True`.
        **kwargs: of `keras_hub.layers.ImageConverter`. `crop_to_aspect_ratio`, `True` by default,
            resizes the shorter side and cuts the longer one to the center.

    Input: `[B, H, W, C]` or `[H, W, C]` with values from 0 to 255, or a list of the latter, of any
    sizes. Output: what the backbone is called with; for images of several sizes a list.

    Example:
    ```python
    converter = d2v_tf.Data2VecImageConverter(image_size=(224, 224), scale=1 / 127.5, offset=-1.0)
    converter(np.zeros((1, 480, 640, 3), "uint8")).shape  # (1, 224, 224, 3)
    ```
    """

    backbone_cls = Data2VecVisionBackbone

    def __init__(self, image_size=None, scale=None, offset=None, *, antialias=True, **kwargs):
        super().__init__(
            image_size=image_size, scale=scale, offset=offset, antialias=antialias, **kwargs
        )
        self.resizing = CenterCropResizing.from_config(self.resizing.get_config())


@keras.saving.register_keras_serializable(package="d2v_tf")
class Data2VecAudioConverter(AudioConverter):
    """Normalizes and pads waveforms as they were in pre-training.

    Input: a waveform of one channel at 16 kHz, float `[N]`, or a list of them, or `[B, N]`; in
    graphs (`tf.data`) one of the tensors. `sampling_rate`, optional, is theirs, to be checked;
    `lengths`, optional, int `[B]`, says how many samples of each row are real, where the others,
    at its end, are padding.
    Output: what the backbone is called with: `"waveform"` float32 `[B, N]`, zero mean and unit
    variance each, and `"padding_mask"` int32 `[B, N]`, 1 = real.

    Raises:
        ValueError: for another rate, several channels, no samples, or samples that are no numbers.
            In graphs, the last is TensorFlow's `InvalidArgumentError`, while they run.

    Example:
    ```python
    samples, rate = soundfile.read("speech.wav", dtype="float32")
    inputs = d2v_tf.Data2VecAudioConverter()([samples], sampling_rate=rate)
    backbone(inputs)
    ```
    """

    backbone_cls = Data2VecSpeechBackbone

    def call(self, inputs, sampling_rate=None, lengths=None):
        if sampling_rate is not None and sampling_rate != SAMPLE_RATE:
            raise ValueError(
                f"Data2VecAudioConverter takes waveforms at {SAMPLE_RATE} Hz. Received: "
                f"sampling_rate={sampling_rate}. Resample them, for example with "
                f"soxr.resample(waveform, {sampling_rate}, {SAMPLE_RATE})."
            )
        if self._use_tf_workflow():
            return self._call_in_graph(inputs, lengths)
        if not isinstance(inputs, (list, tuple)):
            inputs = np.asarray(inputs)
            _check_axes(inputs.shape)
            inputs = [inputs] if inputs.ndim == 1 else list(inputs)
        if lengths is not None:
            inputs = [row[:length] for row, length in zip(inputs, lengths, strict=True)]
        if not inputs:
            raise ValueError("Data2VecAudioConverter needs at least one waveform. Received: []")
        waveforms = [_checked(waveform, i) for i, waveform in enumerate(inputs)]
        waveforms = [normalize_waveform(waveform) for waveform in waveforms]
        lengths = np.array([len(w) for w in waveforms])
        longest = lengths.max()
        return {
            "waveform": np.stack([np.pad(w, (0, longest - len(w))) for w in waveforms]),
            "padding_mask": (np.arange(longest) < lengths[:, None]).astype("int32"),
        }

    def _call_in_graph(self, inputs, lengths):
        import tensorflow as tf  # graphs are TensorFlow's whatever Keras' backend is

        x = tf.cast(inputs, tf.float32)
        _check_axes(x.shape)
        x = x[None] if x.shape.rank == 1 else x
        if lengths is None:
            lengths = tf.fill([tf.shape(x)[0]], tf.shape(x)[1])
        real = tf.sequence_mask(lengths, tf.shape(x)[1])  # [B, N]
        x = tf.debugging.assert_all_finite(tf.where(real, x, 0.0), "A waveform")
        counts = tf.cast(lengths, tf.float32)[:, None]
        x = tf.where(real, x - tf.reduce_sum(x, axis=1, keepdims=True) / counts, 0.0)
        variance = tf.reduce_sum(tf.square(x), axis=1, keepdims=True) / counts
        x = x / tf.sqrt(variance + EPSILON)
        return {"waveform": x, "padding_mask": tf.cast(real, tf.int32)}


def normalize_waveform(waveform):
    """To zero mean and unit variance, as Hugging Face's feature extractor for data2vec does.

    Args:
        waveform: float32 `[N]`, without padding.
    """
    return (waveform - waveform.mean()) / np.sqrt(waveform.var() + EPSILON)


def _check_axes(shape):
    """Refuses what is neither `[N]` nor `[B, N]`."""
    if len(shape) not in (1, 2):
        raise ValueError(
            "Data2VecAudioConverter takes a waveform [N], a batch [B, N] or a list of waveforms. "
            f"Received: an array of shape {tuple(shape)}. Of several channels take the mean: "
            "waveform.mean(axis=-1)."
        )
    if len(shape) == 2 and shape[1] is not None and 0 < shape[1] <= MOST_CHANNELS:
        raise ValueError(
            "Data2VecAudioConverter takes a batch [B, N] of waveforms of one channel. Received: an "
            f"array of shape {tuple(shape)}, which looks like {shape[0]} samples of {shape[1]} "
            "channel(s). Take the mean: waveform.mean(axis=1)."
        )


def _checked(waveform, number):
    """A waveform of a list as float32, if it is one."""
    waveform = np.asarray(waveform, "float32")
    if waveform.ndim != 1:
        raise ValueError(
            f"Data2VecAudioConverter: waveform {number} must be [N], of one channel. Received: an "
            f"array of shape {waveform.shape}. Of several channels take the mean."
        )
    if not len(waveform):
        raise ValueError(
            f"Data2VecAudioConverter: waveform {number} has no samples. Leave it out, or look why "
            "its file is empty."
        )
    bad = np.flatnonzero(~np.isfinite(waveform))
    if len(bad):
        raise ValueError(
            f"Data2VecAudioConverter: {len(bad)} of the {len(waveform)} samples of waveform "
            f"{number} are not finite, the first is {waveform[bad[0]]} at {bad[0]}. Leave it out "
            "or mend it: one such sample spoils the whole waveform."
        )
    return waveform
