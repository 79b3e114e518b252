"""What turns images and waveforms into a backbone's input; saved with it in a preset."""

import keras
import numpy as np
from keras_hub.layers import AudioConverter, ImageConverter

from d2v_tf.backbones.speech import Data2VecSpeechBackbone
from d2v_tf.backbones.vision import Data2VecVisionBackbone

# What Hugging Face's feature extractor adds to the variance.
EPSILON = 1e-7


@keras.saving.register_keras_serializable(package="d2v_tf")
class Data2VecImageConverter(ImageConverter):
    """Resizes and normalizes images as they were in pre-training.

    Input: `[B, H, W, C]` with values from 0 to 255. Output: what the backbone is called with.
    """

    backbone_cls = Data2VecVisionBackbone


@keras.saving.register_keras_serializable(package="d2v_tf")
class Data2VecAudioConverter(AudioConverter):
    """Normalizes and pads waveforms as they were in pre-training.

    Input: a waveform at 16 kHz, float `[N]`, or a list of them, or `[B, N]`. Output: what the
    backbone is called with: `"waveform"` float32 `[B, N]`, zero mean and unit variance each, and
    `"padding_mask"` int32 `[B, N]`, 1 = real.
    """

    backbone_cls = Data2VecSpeechBackbone

    def call(self, inputs):
        if not isinstance(inputs, (list, tuple)):
            inputs = [inputs] if np.ndim(inputs) == 1 else list(inputs)
        waveforms = [normalize_waveform(np.asarray(w, "float32")) for w in inputs]
        lengths = np.array([len(w) for w in waveforms])
        longest = lengths.max()
        return {
            "waveform": np.stack([np.pad(w, (0, longest - len(w))) for w in waveforms]),
            "padding_mask": (np.arange(longest) < lengths[:, None]).astype("int32"),
        }


def normalize_waveform(waveform):
    """To zero mean and unit variance, as Hugging Face's feature extractor for data2vec does.

    Args:
        waveform: float32 `[N]`, without padding.
    """
    return (waveform - waveform.mean()) / np.sqrt(waveform.var() + EPSILON)
