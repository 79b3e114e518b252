"""The smallest CTC model and batches for it."""

import numpy as np

from d2v_tf.backbones.speech import Data2VecSpeechBackbone
from d2v_tf.finetuning.ctc import Data2VecSpeechCTC
from tests.numpy_reference import randomize

VOCABULARY = ("<pad>", "<s>", "</s>", "<unk>", "|", "a", "b", "c")
FRAMES = (30, 17, 6)


def speech_backbone(**kwargs):
    return Data2VecSpeechBackbone(
        **{
            "num_layers": 2,
            "hidden_dim": 16,
            "num_heads": 2,
            "intermediate_dim": 24,
            "conv_dims": (6, 8),
            "conv_kernel_sizes": (10, 4),
            "conv_strides": (5, 4),
            "position_conv_layers": 2,
            "position_conv_kernel_size": 5,
            "position_conv_groups": 4,
            **kwargs,
        }
    )


def ctc_model(backbone=None, **kwargs):
    """A model with random weights throughout."""
    model = Data2VecSpeechCTC(
        backbone or speech_backbone(), VOCABULARY, **{"channel_mask_length": 4, **kwargs}
    )
    randomize(model.weights, 1)
    return model


def batch(frames=FRAMES, seed=0):
    """Inputs of so many frames, padded to the longest, and labels `[3, 4]`."""
    lengths = np.array([20 * n + 15 for n in frames])  # 25 + 20 (n - 1) samples, and 10 to spare
    rng = np.random.default_rng(seed)
    padding_mask = np.arange(lengths.max()) < lengths[:, None]
    waveform = rng.normal(size=padding_mask.shape) * padding_mask
    labels = np.array([[5, 5, 4, 6], [7, -1, -1, -1], [-1, -1, -1, -1]], "int32")
    return {"waveform": waveform.astype("float32"), "padding_mask": padding_mask}, labels
