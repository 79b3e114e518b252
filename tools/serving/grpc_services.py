"""TensorFlow Serving's gRPC interface on this machine only: Predict, metadata and status."""

import contextlib
from concurrent import futures

import grpc
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.errors import ServingError, invalid

THREADS = 8
STATES = get_model_status_pb2.ModelVersionStatus.State


def make_grpc_server(models, port):
    """A server that runs from `start()` on.

    Args:
        models: dict of name to `Model`.
        port: int. 0 takes a free one.

    Returns:
        (`grpc.Server`, the port).

    Raises:
        RuntimeError: where the port is taken.
    """
    unlimited = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.server(futures.ThreadPoolExecutor(THREADS), options=unlimited)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        PredictionService(models), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(models), server)
    return server, server.add_insecure_port(f"127.0.0.1:{port}")


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers requests; Classify and Regress, which take `tf.Example`, are not implemented."""

    def __init__(self, models):
        self.models = models

    def Predict(self, request, context):  # noqa: N802
        with _errors(context):
            model, number = _find(self.models, request.model_spec)
            number, loaded = model.version(number)
            try:
                inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
            except (ValueError, TypeError) as error:
                raise invalid(f"A tensor cannot be read: {error}") from None
            name = request.model_spec.signature_name
            outputs = loaded.run(name, inputs, list(request.output_filter))
            response = predict_pb2.PredictResponse()
            response.model_spec.name = model.name
            response.model_spec.version.value = number
            response.model_spec.signature_name = (
                name or tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
            )
            for key, value in outputs.items():
                response.outputs[key].CopyFrom(tf.make_tensor_proto(value))
            return response

    def GetModelMetadata(self, request, context):  # noqa: N802
        with _errors(context):
            model, number = _find(self.models, request.model_spec)
            if list(request.metadata_field) != ["signature_def"]:
                raise invalid("Metadata field signature_def is the one that there is.")
            number, loaded = model.version(number)
            signatures = get_model_metadata_pb2.SignatureDefMap()
            for name, signature in loaded.signatures.items():
                signatures.signature_def[name].CopyFrom(signature)
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            response.model_spec.name = model.name
            response.model_spec.version.value = number
            response.metadata["signature_def"].Pack(signatures)
            return response


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """Says which versions are served."""

    def __init__(self, models):
        self.models = models

    def GetModelStatus(self, request, context):  # noqa: N802
        with _errors(context):
            model, number = _find(self.models, request.model_spec)
            response = get_model_status_pb2.GetModelStatusResponse()
            for version, state, message in model.status(number):
                row = response.model_version_status.add(version=version, state=STATES.Value(state))
                row.status.error_message = message
            return response


def _find(models, spec):
    if spec.name not in models or spec.version_label:
        raise ServingError("NOT_FOUND", f"Servable not found for request: Latest({spec.name})")
    return models[spec.name], spec.version.value if spec.HasField("version") else None


@contextlib.contextmanager
def _errors(context):
    """Around an answer: gives a `ServingError` back to the client."""
    try:
        yield
    except ServingError as error:
        context.abort(getattr(grpc.StatusCode, error.code), error.message)
