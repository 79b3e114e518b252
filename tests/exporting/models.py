"""Tiny models to serve, and requests for them."""

import io

import numpy as np
import soundfile

import d2v_tf
from d2v_tf.data.tokenization import train_tokenizer
from tests.data.images import encode, picture
from tests.finetuning.tiny_ctc import ctc_model
from tests.interop.tiny import SPEECH, make_backbone

CONVERTER = d2v_tf.Data2VecImageConverter(
    image_size=(12, 12), scale=(0.01, 0.02, 0.03), offset=(-1.0, -0.5, 0.5)
)
TEXTS = ["a cat sat on a mat", "dogs bark at night", "  the fish\t", "naïve café – 你好 🙂"]
TOKENIZER = train_tokenizer(TEXTS * 2, 261 + 30)
NAMES = ("cat", "dog", "fish")
PAIRS = [("a cat", "dogs bark"), ("the fish", "a dog sat on a mat at night")]

# Refuses every import but those of a machine that only serves.
REFUSE_OURS = """
import sys

class Refuse:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("d2v_tf", "keras_hub", "keras_nlp", "tokenizers", "soundfile"):
            raise ImportError(f"{name} is not on this machine")

sys.meta_path.insert(0, Refuse())
"""


def strings(values):
    """What TensorFlow takes of a list of str or bytes."""
    return np.array([v if isinstance(v, bytes) else v.encode() for v in values], object)


def image_files():
    """Encoded images of several sizes, formats and kinds of color."""
    gray, large = picture(2, 30, 20, 1), picture(3, 100, 60)
    with_alpha = np.concatenate([picture(4), picture(5, channels=1)], axis=-1)
    return [
        encode(picture(0)),
        encode(picture(1, 9, 40)),
        encode(gray),
        encode(large, "JPEG"),
        encode(gray, "JPEG"),
        encode(with_alpha),
        encode(picture(6, 12, 12), "BMP"),
        encode(picture(7, 14, 13), "JPEG"),
    ]


def waveforms():
    rng = np.random.default_rng(0)
    return [(0.3 * rng.normal(size=n) + 0.05).astype("float32") for n in (900, 300, 600)]


def padded(rows):
    """Waveforms as `[B, N]` with something else than zeros behind them, and their lengths."""
    lengths = np.array([len(row) for row in rows], "int32")
    batch = np.full((len(rows), lengths.max()), 7.0, "float32")
    for row, wave in zip(batch, rows, strict=True):
        row[: len(wave)] = wave
    return batch, lengths


def wav(samples, rate=16_000, subtype="PCM_16", kind="WAV"):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def image_classifier():
    backbone = make_backbone("vision_per_block")
    model = d2v_tf.Data2VecImageClassifier(backbone, 3, class_names=NAMES)
    # Random weights say the same of every image: without the mean they differ.
    images = np.concatenate([CONVERTER(picture(seed)[None]) for seed in range(4)])
    model.output_dense.bias.assign(-np.mean(model(images), axis=0))
    return model, CONVERTER


def audio_tagger():
    backbone = make_backbone("speech_invariant")
    model = d2v_tf.Data2VecAudioClassifier(backbone, 3, class_names=NAMES, multi_label=True)
    converter = d2v_tf.Data2VecAudioConverter()
    # Some tags are there and some are not, whatever the weights are.
    model.output_dense.bias.assign(-np.mean(model(converter(waveforms())), axis=0))
    return model, converter


def recognizer():
    return ctc_model(), d2v_tf.Data2VecAudioConverter()


def text_model(num_classes=3, class_names=NAMES):
    backbone = make_backbone(
        "text", vocabulary_size=TOKENIZER.vocabulary_size, max_sequence_length=14
    )
    model = d2v_tf.Data2VecTextClassifier(backbone, num_classes, class_names=class_names)
    return model, TOKENIZER.in_graph()


def reference_speech():
    """A backbone that sees its padding, as published ones do."""
    return d2v_tf.Data2VecSpeechBackbone(**SPEECH, padding="reference")
