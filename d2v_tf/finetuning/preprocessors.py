"""What `fit` and `predict` of KerasHub's tasks put before a data2vec model: raw data in.

`keras_hub.models.ImageClassifierPreprocessor.from_preset(preset)` and its kind find these classes
by their backbone, and build them from the settings or the tokenizer that a preset holds.
"""

import keras
import keras_hub

from d2v_tf.backbones.preprocessing import Data2VecAudioConverter, Data2VecImageConverter
from d2v_tf.backbones.speech import Data2VecSpeechBackbone
from d2v_tf.backbones.vision import Data2VecVisionBackbone


@keras.saving.register_keras_serializable(package="d2v_tf")
class Data2VecImageClassifierPreprocessor(keras_hub.models.ImageClassifierPreprocessor):
    """Images with values from 0 to 255, of any size, to what the backbone takes.

    Args:
        image_converter: `Data2VecImageConverter`.

    Input: images, optional labels, optional sample weights; the latter two pass through. Output:
    images, or a tuple of them and what came with them.

    Example:
    ```python
    preprocessor = keras_hub.models.ImageClassifierPreprocessor.from_preset("runs/cifar/preset")
    images, labels = preprocessor(images, labels)
    ```
    """

    backbone_cls = Data2VecVisionBackbone
    image_converter_cls = Data2VecImageConverter


@keras.saving.register_keras_serializable(package="d2v_tf")
class Data2VecAudioClassifierPreprocessor(keras_hub.models.Preprocessor):
    """Waveforms of one channel at 16 kHz to what the backbone takes.

    Args:
        audio_converter: `Data2VecAudioConverter`.

    Input: waveforms `[B, N]`, or, where it is called by hand, a list of them; optional labels,
    optional sample weights; the latter two pass through. Output: `{"waveform", "padding_mask"}`,
    both `[B, N]`, or a tuple of it and what came with it.

    Example:
    ```python
    preprocessor = Data2VecAudioClassifierPreprocessor.from_preset("runs/speech/preset")
    inputs = preprocessor(waveforms)
    ```
    """

    backbone_cls = Data2VecSpeechBackbone
    audio_converter_cls = Data2VecAudioConverter

    def __init__(self, audio_converter, **kwargs):
        super().__init__(**kwargs)
        self.audio_converter = audio_converter

    def call(self, x, y=None, sample_weight=None):
        return keras.utils.pack_x_y_sample_weight(self.audio_converter(x), y, sample_weight)
