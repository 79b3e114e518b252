"""Audio classification and tagging on a speech backbone."""

import keras
import keras_hub

from d2v_tf.backbones.speech import Data2VecSpeechBackbone
from d2v_tf.finetuning.classes import check_class_names, default_compile_arguments
from d2v_tf.finetuning.feature_masks import (
    ChannelMask,
    TimeMask,
    check_masks,
    masked_hidden_states,
)
from d2v_tf.finetuning.pooling import FrameMean
from d2v_tf.finetuning.preprocessors import Data2VecAudioClassifierPreprocessor


@keras.saving.register_keras_serializable(package="d2v_tf")
class Data2VecAudioClassifier(keras_hub.models.Task):
    """The mean of the frames, dropout, and a linear layer; for one class an example or several.

    With `projection_dim` equal to Hugging Face's `Data2VecAudioForSequenceClassification` for the
    same weights: each frame is projected before the mean.

    Args:
        backbone: `Data2VecSpeechBackbone`.
        num_classes: int. C.
        preprocessor: optional `Data2VecAudioClassifierPreprocessor`; with one, `fit` and
            `predict` take waveforms.
        class_names: optional C strings, saved with the model.
        multi_label: bool. Whether an example may have several classes, or none (tagging): each
            class has a sigmoid of its own then.
        projection_dim: optional int. Width of a linear layer before the mean.
        dropout: float. Rate before the last linear layer.
        time_mask_ratio, time_mask_length, channel_mask_ratio, channel_mask_length: spans of frames
            and of channels that are hidden in training, as of `Data2VecSpeechCTC`; none by default.

    Input: what the backbone takes. Output: logits `[B, C]`, float32.

    Raises:
        ValueError: for names that are not one a class, or a mask's ratio outside [0, 1).

    Example:
    ```python
    backbone = d2v_tf.load_backbone("runs/speech")
    tagger = d2v_tf.Data2VecAudioClassifier(backbone, num_classes=10, multi_label=True)
    tagger.fit(dataset, epochs=5)  # of ({"waveform", "padding_mask"}, multi-hot labels [B, 10])
    ```
    """

    backbone_cls = Data2VecSpeechBackbone
    preprocessor_cls = Data2VecAudioClassifierPreprocessor

    def __init__(
        self,
        backbone,
        num_classes,
        preprocessor=None,
        class_names=None,
        multi_label=False,
        projection_dim=None,
        dropout=0.0,
        time_mask_ratio=0.0,
        time_mask_length=10,
        channel_mask_ratio=0.0,
        channel_mask_length=64,
        **kwargs,
    ):
        class_names = check_class_names(class_names, num_classes)
        check_masks(
            time=(time_mask_ratio, time_mask_length),
            channel=(channel_mask_ratio, channel_mask_length),
        )
        policy = backbone.dtype_policy

        # === Layers ===
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.time_mask = TimeMask(time_mask_ratio, time_mask_length, name="time_mask")
        self.channel_mask = ChannelMask(
            channel_mask_ratio, channel_mask_length, dtype=policy, name="channel_mask"
        )
        self.projection = None
        if projection_dim is not None:
            self.projection = keras.layers.Dense(projection_dim, dtype=policy, name="projection")
        self.pooler = FrameMean(
            backbone.conv_kernel_sizes, backbone.conv_strides, dtype="float32", name="pooler"
        )
        self.output_dropout = keras.layers.Dropout(dropout, dtype=policy, name="output_dropout")
        self.output_dense = keras.layers.Dense(num_classes, dtype="float32", name="logits")

        # === Config (before the model, which compiles itself) ===
        self.num_classes = num_classes
        self.class_names = class_names
        self.multi_label = multi_label
        self.projection_dim = projection_dim
        self.dropout = dropout
        self.time_mask_ratio = time_mask_ratio
        self.time_mask_length = time_mask_length
        self.channel_mask_ratio = channel_mask_ratio
        self.channel_mask_length = channel_mask_length

        # === Functional model ===
        inputs = backbone.input
        x = masked_hidden_states(backbone, inputs, self.time_mask, self.channel_mask)  # [B, T, D]
        if self.projection is not None:
            x = self.projection(x)
        x = self.pooler(x, inputs["padding_mask"])  # [B, D]
        outputs = self.output_dense(self.output_dropout(x))
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)

    def __call__(self, inputs, *args, **kwargs):
        return super().__call__(self.backbone.complete_inputs(inputs), *args, **kwargs)

    def compile(self, optimizer="auto", loss="auto", *, metrics="auto", **kwargs):
        """As `keras.Model.compile`; `"auto"` is AdamW, and a cross-entropy.

        Of int labels `[B]`, or of each class for itself, with multi-hot labels `[B, C]`.
        """
        arguments = default_compile_arguments(
            self, self.multi_label, optimizer=optimizer, loss=loss, metrics=metrics
        )
        super().compile(**arguments, **kwargs)

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "class_names": self.class_names,
            "multi_label": self.multi_label,
            "projection_dim": self.projection_dim,
            "dropout": self.dropout,
            "time_mask_ratio": self.time_mask_ratio,
            "time_mask_length": self.time_mask_length,
            "channel_mask_ratio": self.channel_mask_ratio,
            "channel_mask_length": self.channel_mask_length,
        }
