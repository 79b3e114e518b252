"""Requests that TensorFlow Serving answers for itself before it takes those of clients."""

import os

import tensorflow as tf

from d2v_tf.exporting.requests import ExportError
from d2v_tf.exporting.saved_model import WARMUP_FILE


def import_serving_api():
    """The modules of TensorFlow Serving's requests, and of what a server keeps them in.

    Raises:
        ExportError: where tensorflow-serving-api is not installed.
    """
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    except ImportError:
        raise ExportError(
            "Warm-up requests are written by tensorflow-serving-api, which is not installed. "
            "pip install 'd2v_tf[serving]', or leave them out by --nowarmup."
        ) from None
    return predict_pb2, prediction_log_pb2


def write_warmup(name, signatures, folder):
    """Writes one request a signature.

    Args:
        name: str. Of the model, in the requests.
        signatures: what `signatures_of` gives.
        folder: str. The version's.

    Raises:
        ExportError: where tensorflow-serving-api is not installed.
    """
    predict_pb2, prediction_log_pb2 = import_serving_api()
    path = os.path.join(folder, WARMUP_FILE)
    os.makedirs(os.path.dirname(path))
    with tf.io.TFRecordWriter(path) as writer:
        for signature, (_, requests) in signatures.items():
            request = predict_pb2.PredictRequest()
            request.model_spec.name = name
            request.model_spec.signature_name = signature
            for key, value in requests.example.items():
                dtype = requests.specs[key].dtype
                request.inputs[key].CopyFrom(tf.make_tensor_proto(value, dtype))
            log = prediction_log_pb2.PredictLog(request=request)
            writer.write(prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString())
