"""Classification and regression of sentences and pairs of them on a text backbone."""

import keras
import keras_hub

from d2v_tf.backbones.text import Data2VecTextBackbone
from d2v_tf.finetuning.classes import check_class_names, default_compile_arguments
from d2v_tf.finetuning.pooling import TokenMean
from d2v_tf.finetuning.text_preprocessor import Data2VecTextClassifierPreprocessor

POOLINGS = ("token", "mean")


@keras.saving.register_keras_serializable(package="d2v_tf")
class Data2VecTextClassifier(keras_hub.models.TextClassifier):
    """`<s>`, dropout, dense, tanh, dropout, and a linear layer: RoBERTa's and data2vec's head.

    Equal to Hugging Face's `Data2VecTextForSequenceClassification` for the same weights. The mean
    instead of `<s>` asks less of a backbone that has to learn first to gather a sentence there.

    Args:
        backbone: `Data2VecTextBackbone`.
        num_classes: int. C; 1 is a regression.
        preprocessor: optional `Data2VecTextClassifierPreprocessor`; with one, `fit` and
            `predict` take strings.
        class_names: optional C strings, saved with the model.
        dropout: float. Rate of the head.
        pooling: `"token"`, `<s>`, or `"mean"`, over the tokens that are not padding.

    Input: what the backbone takes, `<s>` first. Output: logits `[B, C]`, float32.

    Raises:
        ValueError: for another pooling, or names that are not one a class.

    Example:
    ```python
    backbone = d2v_tf.load_backbone("runs/text")
    classifier = d2v_tf.Data2VecTextClassifier(backbone, num_classes=2)
    classifier.fit(dataset, epochs=3)  # of ({"token_ids", "padding_mask"}, int labels [B])
    ```
    """

    backbone_cls = Data2VecTextBackbone
    preprocessor_cls = Data2VecTextClassifierPreprocessor

    def __init__(
        self,
        backbone,
        num_classes,
        preprocessor=None,
        class_names=None,
        dropout=0.0,
        pooling="token",
        **kwargs,
    ):
        if pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {POOLINGS}. Received: {pooling!r}")
        class_names = check_class_names(class_names, num_classes)
        policy = backbone.dtype_policy

        # === Layers ===
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.pooler = TokenMean(dtype=policy, name="pooler") if pooling == "mean" else None
        self.pooled_dropout = keras.layers.Dropout(dropout, dtype=policy, name="pooled_dropout")
        self.pooled_dense = keras.layers.Dense(
            backbone.hidden_dim,
            activation="tanh",
            kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.02),
            dtype=policy,
            name="pooled_dense",
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
        self.dropout = dropout
        self.pooling = pooling

        # === Functional model ===
        inputs = backbone.input
        x = backbone(inputs)
        x = x[:, 0] if pooling == "token" else self.pooler(x, inputs["padding_mask"])  # [B, D]
        x = self.pooled_dense(self.pooled_dropout(x))
        outputs = self.output_dense(self.output_dropout(x))
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)

    def __call__(self, inputs, *args, **kwargs):
        return super().__call__(self.backbone.complete_inputs(inputs), *args, **kwargs)

    def compile(self, optimizer="auto", loss="auto", *, metrics="auto", **kwargs):
        """As `keras.Model.compile`; `"auto"` is AdamW, and cross-entropy of int labels `[B]`.

        With one class, the squared error of numbers `[B, 1]`.
        """
        arguments = default_compile_arguments(self, optimizer=optimizer, loss=loss, metrics=metrics)
        keras_hub.models.Task.compile(self, **arguments, **kwargs)

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "class_names": self.class_names,
            "dropout": self.dropout,
            "pooling": self.pooling,
        }
