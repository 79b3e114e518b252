"""Speech recognition: a backbone with a linear layer to letters, trained by CTC."""

import keras
import keras_hub
from keras import ops

from d2v_tf.backbones.speech import Data2VecSpeechBackbone
from d2v_tf.finetuning.ctc_loss import ctc_loss, frames_needed
from d2v_tf.finetuning.feature_masks import (
    ChannelMask,
    TimeMask,
    check_masks,
    masked_hidden_states,
)
from d2v_tf.finetuning.preprocessors import Data2VecAudioClassifierPreprocessor


class MeanOfExamples(keras.losses.Loss):
    """The mean of losses that are already there, one an example; scaled for `tf.distribute`."""

    def call(self, y_true, y_pred):
        return y_pred


@keras.saving.register_keras_serializable(package="d2v_tf")
class Data2VecSpeechCTC(keras_hub.models.Task):
    """A speech backbone with a letter head, fine-tuned with CTC (arXiv 2006.11477, 2202.03555).

    Gives logits; with the weights of Hugging Face's `Data2VecAudioForCTC` its logits. The loss is
    built in: `compile(optimizer)` takes none, and `fit` takes batches of (inputs, labels `[B, L]`,
    int, padded with -1). It is the mean over the batch's examples of minus the transcript's log
    probability, in float32 in any precision, not divided by the transcript's length. A transcript
    that needs more frames than there are has no alignment, so its loss would be infinite: it counts
    as 0, has no gradient, and the metric `too_long` counts it. An empty transcript is all blanks.

    In training spans of frames are replaced by the backbone's mask token and spans of channels set
    to zero, on the features before the position encoder.

    Args:
        backbone: `Data2VecSpeechBackbone`.
        vocabulary: sequence of V str. What each logit stands for: the blank first, then letters,
            with `"|"` between words (`d2v_tf.finetuning.letters`).
        time_mask_ratio: float. The part of the frames that would be hidden if no two spans
            overlapped. Defaults to 0.65; 0 hides none.
        time_mask_length: int. Frames of a span.
        channel_mask_ratio: float. The same for channels. The released recipes have 0.25 for up to
            an hour of labels and 0.5 from ten hours on.
        channel_mask_length: int. Channels of a span.
        dropout: float. Dropout rate of the last hidden states.
        preprocessor: optional; as of any `keras_hub` task.
        dtype: optional dtype policy of the model itself. The backbone has its own, and the head
            computes in float32.

    Input: as the backbone's. Output: float32 `[B, T, V]`.

    Raises:
        ValueError: for a vocabulary that has an entry twice, or no letter, or a rate outside its
            range.

    Example:
    ```python
    import d2v_tf
    import soundfile

    recordings = {"a.wav": "one two", "b.wav": "three"}  # mono, 16 kHz
    texts = list(recordings.values())
    inputs = d2v_tf.Data2VecAudioConverter()([soundfile.read(path)[0] for path in recordings])
    vocabulary = d2v_tf.letter_vocabulary(texts)  # the blank, then "|" and the letters
    labels = d2v_tf.pad_labels(d2v_tf.encode_letters(texts, vocabulary))  # [B, L], -1 behind

    model = d2v_tf.Data2VecSpeechCTC(d2v_tf.load_backbone("runs/speech"), vocabulary)
    model.compile(d2v_tf.LayerwiseAdamW(1e-3))
    freeze = d2v_tf.FreezeBackbone(10)  # the head alone, for ten updates
    model.fit(inputs, labels, batch_size=2, epochs=30, shuffle=False, callbacks=[freeze])

    heard = d2v_tf.GreedyDecoder(vocabulary)(model(inputs), model.frame_lengths(inputs))
    print(d2v_tf.evaluate_ctc(model, [(inputs, range(len(texts)))], texts).wer, heard)
    ```
    """

    backbone_cls = Data2VecSpeechBackbone
    preprocessor_cls = Data2VecAudioClassifierPreprocessor

    def __init__(
        self,
        backbone,
        vocabulary,
        time_mask_ratio=0.65,
        time_mask_length=10,
        channel_mask_ratio=0.25,
        channel_mask_length=64,
        dropout=0.0,
        preprocessor=None,
        dtype=None,
        **kwargs,
    ):
        vocabulary = tuple(vocabulary)
        if len(vocabulary) < 2 or len(set(vocabulary)) < len(vocabulary):
            raise ValueError(
                "vocabulary must have the blank and at least one letter, each once. "
                f"Received: {vocabulary}"
            )
        check_masks(
            time=(time_mask_ratio, time_mask_length),
            channel=(channel_mask_ratio, channel_mask_length),
        )

        # === Layers ===
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.time_mask = TimeMask(time_mask_ratio, time_mask_length, name="time_mask")
        self.channel_mask = ChannelMask(
            channel_mask_ratio,
            channel_mask_length,
            dtype=backbone.dtype_policy,
            name="channel_mask",
        )
        self.output_dropout = keras.layers.Dropout(
            dropout, dtype=backbone.dtype_policy, name="output_dropout"
        )
        # Hugging Face's and fairseq's initial weights of a head.
        self.head = keras.layers.Dense(
            len(vocabulary),
            kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.02),
            dtype="float32",
            name="head",
        )

        # === Functional model ===
        inputs = backbone.input
        hidden = masked_hidden_states(backbone, inputs, self.time_mask, self.channel_mask)
        logits = self.head(self.output_dropout(hidden))
        super().__init__(inputs=inputs, outputs=logits, dtype=dtype, **kwargs)

        # === Config ===
        self.vocabulary = vocabulary
        self.time_mask_ratio = time_mask_ratio
        self.time_mask_length = time_mask_length
        self.channel_mask_ratio = channel_mask_ratio
        self.channel_mask_length = channel_mask_length
        self.dropout = dropout
        self.mean_of_examples = MeanOfExamples(dtype="float32")
        self.too_long = keras.metrics.Sum(name="too_long", dtype="float32")

    def __call__(self, inputs, *args, **kwargs):
        return super().__call__(self.backbone.complete_inputs(inputs), *args, **kwargs)

    def frame_lengths(self, inputs):
        """Real frames of each example: int32 `[B]`.

        Args:
            inputs: what the model is called with.
        """
        padding_mask = self.backbone.feature_padding_mask(inputs)
        if padding_mask is not None:
            return ops.sum(ops.cast(padding_mask, "int32"), axis=1)
        batch, num_samples = ops.shape(inputs["waveform"])
        frames = self.backbone.feature_lengths(num_samples)
        return ops.full((batch,), frames, dtype="int32")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The mean over the batch of the examples' losses; see the class."""
        labels, lengths = ops.cast(y, "int32"), self.frame_lengths(x)
        needed = frames_needed(labels)
        fits = ops.logical_and(needed <= lengths, lengths > 0)
        self.too_long.update_state(ops.cast(ops.logical_not(fits), "float32"))
        # An example without an alignment gets an empty transcript in the loss, and no weight.
        labels = ops.where(fits[:, None], labels, -1)
        losses = ctc_loss(labels, y_pred, ops.maximum(lengths, 1))
        losses = ops.where(fits, losses, 0.0)
        return self.mean_of_examples(losses, losses, sample_weight)

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary": self.vocabulary,
            "time_mask_ratio": self.time_mask_ratio,
            "time_mask_length": self.time_mask_length,
            "channel_mask_ratio": self.channel_mask_ratio,
            "channel_mask_length": self.channel_mask_length,
            "dropout": self.dropout,
        }
