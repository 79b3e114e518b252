"""Looks an exported model through as a server would: what it finds, loads and warms up with."""

import os

import numpy as np
import tensorflow as tf

from serving.errors import ServingError
from serving.saved_models import (
    PREDICT,
    LoadedVersion,
    read_signatures,
    register_text_operations,
    versions_in,
)

DEFAULT = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
WARMUP = os.path.join("assets.extra", "tf_serving_warmup_requests")
MOST_WARMUP_REQUESTS = 1000  # a server refuses a file with more


def check_model(folder, version=None, say=print):
    """Checks a version of a model.

    Args:
        folder: str. Of a model's versions.
        version: optional int. Default: the one that a server would load, the highest.
        say: callable(str), called with what is found.

    Returns:
        list of str: what is wrong; empty where a server would serve it.
    """
    try:
        versions = versions_in(folder)
    except OSError as error:
        return [f"{folder} cannot be read ({error.strerror})."]
    if not versions:
        return [f"{folder} has no version: a server looks for folders named by a number in it."]
    others = sorted(set(os.listdir(folder)) - set(versions.values()))
    if others:
        say(f"not seen by a server: {', '.join(others)}")
    say(f"versions: {', '.join(map(str, versions))}; the highest is served")
    if version is None:
        version = max(versions)
    elif version not in versions:
        return [f"{folder} has no version {version}."]
    say(f"checked: {version}")
    path = os.path.join(folder, versions[version])
    try:
        signatures = read_signatures(path)
    except ValueError as error:
        return [str(error)]
    if not register_text_operations():
        say("tensorflow-text is not installed: models of texts will not load")
    problems = []
    for name, signature in sorted(signatures.items()):
        say(f"{name}: {_described(signature.inputs)} -> {_described(signature.outputs)}")
        problems += [f"{path}: signature {name}: {p}" for p in signature_problems(signature)]
    if DEFAULT not in signatures:
        problems.append(f"{path}: no signature is named {DEFAULT}, which clients ask by default.")
    try:
        loaded = LoadedVersion(path)
    except (OSError, ValueError, tf.errors.OpError) as error:
        first = str(error).strip().split("\n")[0]
        return [*problems, f"{path} does not load ({type(error).__name__}: {first})."]
    say("loaded")
    return problems + label_problems(path, signatures) + warmup_problems(path, loaded, say)


def signature_problems(signature):
    """What a server or its clients would stumble over: list of str."""
    problems = []
    if signature.method_name != PREDICT:
        problems.append(f"its method is {signature.method_name!r}, not {PREDICT!r}.")
    for kind, tensors in (("input", signature.inputs), ("output", signature.outputs)):
        if not tensors:
            problems.append(f"it has no {kind}.")
        for name, info in tensors.items():
            shape = tf.TensorShape(info.tensor_shape)
            if shape.rank is None:
                problems.append(f"{kind} {name} has no rank.")
            elif shape.rank == 0 or shape[0] is not None:
                problems.append(f"{kind} {name} has shape {shape}: its batch is not free.")
            if tf.as_dtype(info.dtype) in (tf.resource, tf.variant, tf.bfloat16, tf.float16):
                dtype = tf.as_dtype(info.dtype).name
                problems.append(f"{kind} {name} is of type {dtype}, which JSON has not.")
    return problems


def label_problems(path, signatures):
    """Whether there are as many labels as logits: list of str."""
    file = os.path.join(path, "assets", "labels.txt")
    logits = signatures.get(DEFAULT) and signatures[DEFAULT].outputs.get("logits")
    if not os.path.isfile(file) or not logits:
        return []
    with open(file, encoding="utf-8", newline="\n") as opened:
        count = opened.read().count("\n")
    wanted = tf.TensorShape(logits.tensor_shape)[-1]
    if wanted in (None, count):
        return []
    return [f"{file} has {count} lines, and there are {wanted} logits."]


def warmup_problems(path, loaded, say=print):
    """Replays the requests that a server would warm up with: list of str, what went wrong."""
    file = os.path.join(path, WARMUP)
    if not os.path.isfile(file):
        say("no warm-up requests: the first requests of clients will be slow")
        return []
    try:
        from tensorflow_serving.apis import prediction_log_pb2
    except ImportError:
        return [
            f"{file} was not replayed: tensorflow-serving-api is not installed. "
            "pip install tensorflow-serving-api"
        ]
    problems, count = [], 0
    try:
        for record in tf.data.TFRecordDataset(file):
            count += 1
            log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
            if not log.HasField("predict_log"):
                problems.append(f"{file}: record {count} is no Predict request.")
                continue
            request = log.predict_log.request
            reason = _replay(loaded, request)
            if reason:
                name = request.model_spec.signature_name
                problems.append(f"{file}: record {count}, signature {name}: {reason}")
    except Exception as error:  # TensorFlow's for a broken file, protobuf's for a broken record
        problems.append(f"{file}: record {count} cannot be read ({str(error).splitlines()[0]}).")
    if count > MOST_WARMUP_REQUESTS:
        problems.append(f"{file} has {count} requests; a server takes {MOST_WARMUP_REQUESTS}.")
    say(f"warm-up: {count} requests replayed")
    return problems


def _replay(loaded, request):
    """What is wrong with a request or with the answer: str, `""` where nothing is."""
    name = request.model_spec.signature_name
    try:
        inputs = {key: tf.make_ndarray(proto) for key, proto in request.inputs.items()}
        outputs = loaded.run(name, inputs)
    except ServingError as error:
        return error.message
    for key, info in loaded.signature(name).outputs.items():
        value = outputs[key]
        if not tf.TensorShape(info.tensor_shape).is_compatible_with(value.shape):
            return f"{key} has shape {value.shape}, not the signature's."
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            return f"{key} has numbers that are not finite."
    return ""


def _described(tensors):
    return ", ".join(
        f"{name} {tf.as_dtype(info.dtype).name} "
        f"[{', '.join('?' if d is None else str(d) for d in tf.TensorShape(info.tensor_shape))}]"
        for name, info in sorted(tensors.items())
    )
