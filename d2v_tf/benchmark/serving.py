"""How long a served model takes to answer, beside the same weights in PyTorch."""

import os
import pydoc_data.topics
import tempfile

import numpy as np
import tensorflow as tf

from d2v_tf.backbones.preprocessing import (
    SAMPLE_RATE,
    Data2VecAudioConverter,
    Data2VecImageConverter,
)
from d2v_tf.benchmark.peer import import_peer
from d2v_tf.benchmark.timing import num_threads, quartiles, time_in_turns
from d2v_tf.data.tokenization import train_tokenizer
from d2v_tf.exporting.export import export, requests_for
from d2v_tf.interop.huggingface import load_huggingface

# Fields of transformers' configurations; of base those that it has by itself.
SIZES = {
    "base": {"vision": {"use_relative_position_bias": True}, "speech": {}, "text": {}},
    "tiny": {
        "vision": {
            "image_size": 32,
            "patch_size": 8,
            "use_relative_position_bias": True,
            "num_hidden_layers": 2,
            "hidden_size": 32,
            "num_attention_heads": 2,
            "intermediate_size": 64,
        },
        "speech": {
            "conv_dim": (16,) * 7,
            "num_hidden_layers": 2,
            "hidden_size": 32,
            "num_attention_heads": 2,
            "intermediate_size": 64,
        },
        "text": {
            "num_hidden_layers": 2,
            "hidden_size": 32,
            "num_attention_heads": 2,
            "intermediate_size": 64,
        },
    },
}
# What an example is.
IMAGE_SHAPE = (375, 500)  # ImageNet's usual size
SECONDS = 10
TOKENS = 128
REQUESTS = {
    "vision": f"JPEGs of {IMAGE_SHAPE[0]} x {IMAGE_SHAPE[1]}",
    "speech": f"waveforms of {SECONDS} s",
    "text": f"texts of {TOKENS} tokens",
}
VOCABULARY_SIZE = 2048  # what the tokenizer is trained to: fast, and none too long a text


def measure_serving(modality, size="base", batches=(1, 8, 32), turns=5):
    """Times the `features` of an exported backbone with random weights, and PyTorch's.

    The served model is asked as clients ask: for JPEGs of 375 x 500, waveforms of 10 s, texts of
    128 tokens. PyTorch's model, transformers', computes in inference mode from inputs that are
    ready, so it has less to do. Both have as many threads, compute in float32, and take turns.

    Args:
        modality: `"vision"`, `"speech"` or `"text"`.
        size: `"base"`, or `"tiny"` for a test.
        batches: ints. Examples in a request.
        turns: int. How often each is timed, after two times that do not count.

    Returns:
        dict, what `tools/benchmark.py --serving --json` prints: of each batch `served` and
        `pytorch`, quartiles in seconds, their rates in examples a second, and `difference`, the
        largest between their last hidden states; `load`, the machine's before and after.

    Raises:
        UserError: where PyTorch or transformers is not installed.
    """
    torch, transformers = import_peer("--serving")
    threads = num_threads()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        theirs = _model(transformers, modality, SIZES[size][modality]).eval()
        theirs.save_pretrained(os.path.join(folder, "theirs"))
        backbone, _ = load_huggingface(os.path.join(folder, "theirs"))
        preprocessing, example = _EXAMPLES[modality](backbone)
        (request, *_) = requests_for(backbone, preprocessing)
        folder = os.path.join(folder, "served")
        path = export(backbone, folder, preprocessing, warmup=False, say=lambda line: None)
        loaded = tf.saved_model.load(path)
        served = loaded.signatures["features"]
        prepare = tf.function(
            lambda inputs: request.to_inputs(**inputs),
            input_signature=[request.specs],
            autograph=False,
        )
        results = {}
        for batch in batches:
            asked = {k: tf.constant(np.repeat(v, batch, axis=0)) for k, v in example.items()}
            ready = {
                name: torch.tensor(np.array(value))
                for name, value in _theirs(modality, prepare(asked)).items()
            }
            results[batch] = _compare(torch, served, asked, theirs, ready, turns)
    return {
        "modality": modality,
        "size": size,
        "parameters": backbone.count_params(),
        "threads": threads,
        "load": [load, os.getloadavg()[0]],
        "batches": results,
    }


def markdown_rows(result, heading=True):
    """A table of what `measure_serving` gives, for a document: list of str, its lines.

    Args:
        result: what `measure_serving` gives.
        heading: bool. Whether the table's first two lines are among them.
    """
    titles = "request of", "batch", "served, s", "PyTorch, s", "served, examples a second"
    rows = [(*titles, "difference"), ("---",) * 6] if heading else []
    for number, (batch, timings) in enumerate(result["batches"].items()):
        rows.append(
            (
                "" if number else REQUESTS[result["modality"]],
                f"{batch}",
                *(f"{timings[side]['median']:#.3g}" for side in ("served", "pytorch")),
                f"{timings['served']['examples_per_second']:.1f}",
                f"{timings['difference']:.0e}",
            )
        )
    return [f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows]


def _compare(torch, served, asked, theirs, ready, turns):
    def in_pytorch():
        with torch.inference_mode():
            return tf.constant(theirs(**ready).last_hidden_state.numpy())

    def in_tensorflow():
        return served(**asked)["hidden_states"]

    difference = np.abs(in_tensorflow().numpy() - in_pytorch().numpy()).max()
    seconds = time_in_turns({"served": in_tensorflow, "pytorch": in_pytorch}, turns)
    batch = len(next(iter(ready.values())))
    result = {name: quartiles(values) for name, values in seconds.items()}
    for timing in result.values():
        timing["examples_per_second"] = batch / timing["median"]
    return {**result, "difference": float(difference)}


def _model(transformers, modality, fields):
    kind = {"vision": "Vision", "speech": "Audio", "text": "Text"}[modality]
    config = getattr(transformers, f"Data2Vec{kind}Config")(**fields)
    options = {} if modality == "speech" else {"add_pooling_layer": False}
    return getattr(transformers, f"Data2Vec{kind}Model")(config, **options)


def _theirs(modality, inputs):
    """What PyTorch's model is called with, of what ours is."""
    if modality == "vision":
        return {"pixel_values": tf.transpose(inputs, [0, 3, 1, 2])}
    if modality == "speech":
        return {"input_values": inputs["waveform"], "attention_mask": inputs["padding_mask"]}
    return {"input_ids": inputs["token_ids"], "attention_mask": inputs["padding_mask"]}


def _image(backbone):
    rng = np.random.default_rng(0)
    # Coarse and fine noise: a file of the size and the decoding time of a photograph's.
    image = tf.image.resize(rng.uniform(0, 255, (12, 16, 3)), IMAGE_SHAPE, "bicubic")
    image = tf.clip_by_value(image + rng.normal(0, 8, (*IMAGE_SHAPE, 3)), 0, 255)
    encoded = tf.io.encode_jpeg(tf.cast(image, tf.uint8), quality=90).numpy()
    converter = Data2VecImageConverter(
        image_size=backbone.image_shape[:2], scale=1 / 127.5, offset=-1.0
    )
    return converter, {"image_bytes": np.array([encoded], object)}


def _waveform(_):
    noise = 0.1 * np.random.default_rng(0).normal(size=(1, SECONDS * SAMPLE_RATE))
    return Data2VecAudioConverter(), {"waveform": noise.astype("float32")}


def _text(_):
    text = "\n".join(topic for _, topic in sorted(pydoc_data.topics.topics.items()))
    tokenizer = train_tokenizer([text], VOCABULARY_SIZE)
    ids = tokenizer.encode([" ".join(text[:4000].split())])[0][: TOKENS - 2]
    return tokenizer.in_graph(), {"text": np.array([tokenizer.decode(ids).encode()], object)}


_EXAMPLES = {"vision": _image, "speech": _waveform, "text": _text}
