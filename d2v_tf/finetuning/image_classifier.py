"""Image classification on a vision backbone."""

import keras
import keras_hub

from d2v_tf.backbones.vision import Data2VecVisionBackbone
from d2v_tf.finetuning.classes import check_class_names, default_compile_arguments
from d2v_tf.finetuning.pooling import PatchMean
from d2v_tf.finetuning.preprocessors import Data2VecImageClassifierPreprocessor

POOLINGS = ("mean", "token")


@keras.saving.register_keras_serializable(package="d2v_tf")
class Data2VecImageClassifier(keras_hub.models.ImageClassifier):
    """The mean of the patches, layer norm, dropout, and a linear layer: BEiT's and data2vec's head.

    Equal to Hugging Face's `Data2VecVisionForImageClassification` for the same weights.

    Args:
        backbone: `Data2VecVisionBackbone`.
        num_classes: int. C.
        preprocessor: optional `Data2VecImageClassifierPreprocessor`; with one, `fit` and
            `predict` take images as they are.
        class_names: optional C strings, saved with the model.
        pooling: `"mean"`, or `"token"`: the class token, without the norm.
        dropout: float. Rate before the linear layer.

    Input: what the backbone takes. Output: logits `[B, C]`, float32.

    Raises:
        ValueError: for another pooling, or names that are not one a class.

    Example:
    ```python
    backbone = d2v_tf.load_backbone("runs/cifar")
    classifier = d2v_tf.Data2VecImageClassifier(backbone, num_classes=10)
    classifier.fit(images, labels, batch_size=64, epochs=5)  # labels: ints [N]
    ```
    """

    backbone_cls = Data2VecVisionBackbone
    preprocessor_cls = Data2VecImageClassifierPreprocessor

    def __init__(
        self,
        backbone,
        num_classes,
        preprocessor=None,
        class_names=None,
        pooling="mean",
        dropout=0.0,
        **kwargs,
    ):
        if pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {POOLINGS}. Received: {pooling!r}")
        class_names = check_class_names(class_names, num_classes)
        policy = backbone.dtype_policy

        # === Layers ===
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.pooler = self.pooled_norm = None
        if pooling == "mean":
            self.pooler = PatchMean(backbone.num_prefix_tokens, dtype=policy, name="pooler")
            self.pooled_norm = keras.layers.LayerNormalization(
                epsilon=backbone.layer_norm_epsilon, dtype=policy, name="pooled_norm"
            )
        self.output_dropout = keras.layers.Dropout(dropout, dtype=policy, name="output_dropout")
        self.output_dense = keras.layers.Dense(
            num_classes,
            kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.02),
            dtype="float32",
            name="logits",
        )

        # === Config (before the model, which compiles itself) ===
        self.num_classes = num_classes
        self.class_names = class_names
        self.pooling = pooling
        self.dropout = dropout

        # === Functional model ===
        backbone.mask_token.trainable = False  # nothing is masked, so it would get no gradient
        inputs = backbone.input
        x = backbone(inputs)  # [B, 1 + T, D]
        x = x[:, 0] if pooling == "token" else self.pooled_norm(self.pooler(x))  # [B, D]
        outputs = self.output_dense(self.output_dropout(x))
        # Not ImageClassifier's, whose head pools maps of features.
        keras_hub.models.Task.__init__(self, inputs=inputs, outputs=outputs, **kwargs)

    def compile(self, optimizer="auto", loss="auto", *, metrics="auto", **kwargs):
        """As `keras.Model.compile`; `"auto"` is cross-entropy of int labels `[B]` and AdamW."""
        arguments = default_compile_arguments(self, optimizer=optimizer, loss=loss, metrics=metrics)
        keras_hub.models.Task.compile(self, **arguments, **kwargs)

    def get_config(self):
        return {
            **keras_hub.models.Task.get_config(self),
            "num_classes": self.num_classes,
            "class_names": self.class_names,
            "pooling": self.pooling,
            "dropout": self.dropout,
        }
