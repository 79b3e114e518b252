"""The small server's protocols, by what TensorFlow Serving's own documentation says of them."""

import base64
import http.client
import json
import shutil
import threading

import grpc
import numpy as np
import pytest
import tensorflow as tf
from serving.grpc_services import make_grpc_server
from serving.rest import make_rest_server
from serving.saved_models import Model
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tests.serving.toy import write_toy

SEVERAL = {"tag": ["foo", "bar"], "signal": [[1, 2], [3.5, 4]], "count": [1, 2]}
ROWS = [dict(zip(SEVERAL, row, strict=True)) for row in zip(*SEVERAL.values(), strict=True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("toy")
    write_toy(root / "123")
    return root


@pytest.fixture(scope="module")
def models(folder):
    model = Model("toy", str(folder))
    assert model.refresh() and not model.refresh()
    return {"toy": model}


@pytest.fixture(scope="module")
def port(models):
    server = make_rest_server(models, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def ask(port):
    """Function of a path and a body to (HTTP status, what the JSON says)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(path, body=None):
        if body is not None and not isinstance(body, str | bytes):
            body = json.dumps(body)
        connection.request("GET" if body is None else "POST", path, body)
        response = connection.getresponse()
        assert response.headers["Content-Type"] == "application/json"
        return response.status, json.loads(response.read())

    yield ask
    connection.close()


@pytest.fixture(scope="module")
def channel(models):
    server, port = make_grpc_server(models, 0)
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    server.stop(None)


def predict(ask, body, where="/v1/models/toy:predict"):
    return ask(where, body)


class TestRest:
    def test_rows_of_one_input(self, ask):
        assert predict(ask, {"instances": [1.0, 2.0, 5.0]}) == (
            200,
            {"predictions": [3.5, 4.0, 5.5]},
        )
        rows = {"instances": [{"x": 1.0}]}
        assert predict(ask, rows) == (200, {"predictions": [3.5]})

    def test_columns_of_one_input(self, ask):
        assert predict(ask, {"inputs": [1, 2]}) == (200, {"outputs": [3.5, 4.0]})
        assert predict(ask, {"inputs": {"x": [1]}}) == (200, {"outputs": [3.5]})

    def test_rows_and_columns_of_several_inputs(self, ask):
        encoded = [{"b64": base64.b64encode(tag).decode()} for tag in (b"foo", b"bar")]
        columns = {
            "total": [3.0, 15.0],
            "tag": ["foo", "bar"],
            "tag_bytes": encoded,
            "many": [False, True],
        }
        status, answer = predict(ask, {"signature_name": "several", "inputs": SEVERAL})
        assert (status, answer) == (200, {"outputs": columns})
        status, answer = predict(ask, {"signature_name": "several", "instances": ROWS})
        expected = [
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ]
        assert (status, answer) == (200, {"predictions": expected})

    def test_bytes_go_in_as_base64_and_text_as_it_is(self, ask):
        one = {**ROWS[0], "tag": {"b64": base64.b64encode("é".encode()).decode()}}
        _, answer = predict(ask, {"signature_name": "several", "instances": [one]})
        assert answer["predictions"][0]["tag"] == "é"
        one["tag"] = {"b64": base64.b64encode(b"\xff").decode()}
        status, answer = predict(ask, {"signature_name": "several", "instances": [one]})
        assert status == 400 and "tag has bytes that are no text" in answer["error"]

    @pytest.mark.parametrize("text", ["a", "ab", "abc"])
    def test_base64_may_lack_its_padding(self, ask, text):
        encoded = base64.b64encode(text.encode()).decode()
        for said in (encoded, encoded.rstrip("=")):
            one = {**ROWS[0], "tag": {"b64": said}}
            _, answer = predict(ask, {"signature_name": "several", "instances": [one]})
            assert answer["predictions"][0]["tag"] == text

    def test_numbers_have_no_more_digits_than_they_need(self, ask):
        numbers = [0.2, -1e-9, 16777216.0]  # of which the model makes 3.1, 3.0 and 8388611.0
        assert predict(ask, {"inputs": numbers}) == (200, {"outputs": [3.1, 3.0, 8388611.0]})

    def test_numbers_that_json_has_not(self, ask):
        status, answer = predict(ask, '{"instances": [NaN, Infinity, -Infinity, 1e400]}')
        assert status == 200
        assert np.isnan(answer["predictions"][0]) and answer["predictions"][1] == np.inf

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("no json", "JSON Parse error"),
            ([1], "must be a JSON object"),
            ({}, "exactly one of"),
            ({"inputs": [1], "instances": [1]}, "exactly one of"),
            ({"instances": []}, "at least one value"),
            ({"instances": 3}, "at least one value"),
            ({"instances": ["a"]}, "x must be of type float32. Received: \\['a'\\]"),
            ({"instances": [True]}, "x must be of type float32"),
            ({"instances": [[1, 2]]}, "x must be of shape \\(None,\\). Received: \\(1, 2\\)"),
            ({"instances": [[1], 2]}, "x: its lists are not all equally long"),
            ({"inputs": {"z": [1]}}, "z is no input of the signature, which has x"),
            ({"signature_name": 3, "inputs": [1]}, "must be a string"),
            ({"signature_name": "none", "inputs": [1]}, 'key "none" not found. There are: mean'),
            ({"signature_name": "several", "inputs": [1]}, "Inputs must be named"),
            (
                {"signature_name": "several", "inputs": {"tag": ["a"]}},
                "Missing but required: {count",
            ),
            (
                {"signature_name": "several", "instances": [ROWS[0], {}]},
                "Failed to process element: 1",
            ),
            (
                {"signature_name": "several", "inputs": {**SEVERAL, "count": [1.5, 2]}},
                "count must be of type int32",
            ),
            (
                {"signature_name": "several", "inputs": {**SEVERAL, "count": [1, 2**40]}},
                "numbers that do not fit into int32",
            ),
            (
                {"signature_name": "several", "inputs": {**SEVERAL, "tag": [1, 2]}},
                'tag must be strings or {"b64": ...}. Received: 1',
            ),
            (
                {"signature_name": "several", "inputs": {**SEVERAL, "tag": [{"b64": "?"}] * 2}},
                "is no base64",
            ),
            (
                {"signature_name": "several", "inputs": {**SEVERAL, "count": [1, 0]}},
                "count too small",
            ),
            ({"signature_name": "mean", "instances": [1.0]}, "ask in the columnar format"),
            (
                {"signature_name": "several", "inputs": {**SEVERAL, "tag": ["a", ["b"]]}},
                "tag: its lists are not all equally long",
            ),
            (
                {"signature_name": "several", "inputs": {**SEVERAL, "tag": ["\ud800", "b"]}},
                "tag has half of a surrogate pair",
            ),
            ({"signature_name": "\ud800", "inputs": [1]}, "not found"),
        ],
    )
    def test_wrong_requests_say_what_is_wrong(self, ask, body, message):
        status, answer = predict(ask, body)
        assert status == 400 and set(answer) == {"error"}
        pytest.raises(ValueError, _raise, answer["error"]).match(message)

    def test_versions_and_status(self, ask):
        state = {
            "version": "123",
            "state": "AVAILABLE",
            "status": {"error_code": "OK", "error_message": ""},
        }
        for where in ("/v1/models/toy", "/v1/models/toy/versions/123"):
            assert ask(where) == (200, {"model_version_status": [state]})
        where = "/v1/models/toy/versions/123:predict"
        assert predict(ask, {"instances": [1.0]}, where) == (200, {"predictions": [3.5]})
        where = "/v1/models/toy/versions/7:predict"
        status, answer = predict(ask, {"instances": [1.0]}, where)
        assert status == 404
        assert answer["error"] == "Servable not found for request: Specific(toy, 7)"
        assert ask("/v1/models/toy/versions/7")[0] == 404

    def test_metadata(self, ask):
        status, answer = ask("/v1/models/toy/metadata")
        assert status == 200
        assert answer["model_spec"] == {"name": "toy", "signature_name": "", "version": "123"}
        signatures = answer["metadata"]["signature_def"]["signature_def"]
        assert set(signatures) == {"serving_default", "several", "mean"}
        signal = signatures["several"]["inputs"]["signal"]
        assert signal["dtype"] == "DT_FLOAT"
        assert [dim["size"] for dim in signal["tensor_shape"]["dim"]] == ["-1", "2"]
        assert signatures["several"]["method_name"] == "tensorflow/serving/predict"

    @pytest.mark.parametrize(
        ("where", "body", "status"),
        [
            ("/v1/models/other:predict", {"instances": [1.0]}, 404),
            ("/v1/models/toy/labels/stable", None, 404),
            ("/v2/models/toy", None, 404),
            ("/", None, 404),
            ("/v1/models", None, 400),
            ("/v1/nothing", None, 400),
            ("/v1/models/toy:predict", None, 400),
            ("/v1/models/toy", {"instances": [1.0]}, 400),
            ("/v1/models/toy/metadata", {"instances": [1.0]}, 400),
            ("/v1/models/toy:other", {"instances": [1.0]}, 400),
            ("/v1/models/toy:classify", {"examples": []}, 501),
        ],
    )
    def test_what_is_not_there(self, ask, where, body, status):
        got, answer = ask(where, body)
        assert got == status and set(answer) == {"error"}

    def test_a_name_may_be_quoted(self, ask):
        assert ask("/v1/models/%74oy")[0] == 200

    @pytest.mark.parametrize(
        ("method", "status"), [("PUT", 400), ("HEAD", 400), ("DELETE", 400), ("BREW", 501)]
    )
    def test_other_methods_are_answered_in_json(self, port, method, status):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request(method, "/v1/models/toy", None if method == "HEAD" else "{}")
        response = connection.getresponse()
        content = response.read()
        connection.close()
        assert response.status == status
        assert response.headers["Content-Type"] == "application/json"
        if method == "HEAD":
            assert content == b"" and int(response.headers["Content-Length"]) > 10
        else:
            assert set(json.loads(content)) == {"error"}


def _raise(message):
    raise ValueError(message)


class TestGrpc:
    def test_predict(self, channel):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "toy"
        request.model_spec.signature_name = "several"
        values = {
            "tag": np.array([b"foo", b"\xff"], object),
            "signal": np.array([[1, 2], [3.5, 4]], "float32"),
            "count": np.array([1, 2], "int32"),
        }
        for name, value in values.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        answer = stub.Predict(request)
        assert answer.model_spec.version.value == 123
        assert tf.make_ndarray(answer.outputs["total"]).tolist() == [3.0, 15.0]
        assert tf.make_ndarray(answer.outputs["tag"]).tolist() == [b"foo", b"\xff"]
        request.output_filter.append("many")
        assert set(stub.Predict(request).outputs) == {"many"}

    @pytest.mark.parametrize(
        ("change", "code", "message"),
        [
            ({"name": "other"}, "NOT_FOUND", "Latest.other."),
            ({"version": 7}, "NOT_FOUND", "Specific.toy, 7."),
            ({"signature": "none"}, "FAILED_PRECONDITION", "not found"),
            ({"x": np.array([[1.0]], "float32")}, "INVALID_ARGUMENT", "x must be of shape"),
            ({"x": np.array([1.0])}, "INVALID_ARGUMENT", "x must be of type float32"),
            ({"y": np.array([1.0])}, "INVALID_ARGUMENT", "Sent extra: {y}"),
        ],
    )
    def test_wrong_requests(self, channel, change, code, message):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = predict_pb2.PredictRequest()
        request.model_spec.name = change.get("name", "toy")
        request.model_spec.signature_name = change.get("signature", "")
        if "version" in change:
            request.model_spec.version.value = change["version"]
        arrays = {k: v for k, v in change.items() if k in "xy"} or {"x": np.ones(1, "float32")}
        for name, value in arrays.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        with pytest.raises(grpc.RpcError, match=message) as error:
            stub.Predict(request)
        assert error.value.code().name == code

    def test_metadata_and_status(self, channel):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = "toy"
        signatures = get_model_metadata_pb2.SignatureDefMap()
        stub.GetModelMetadata(request).metadata["signature_def"].Unpack(signatures)
        assert set(signatures.signature_def) == {"serving_default", "several", "mean"}
        status = get_model_status_pb2.GetModelStatusRequest()
        status.model_spec.name = "toy"
        answer = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(status)
        assert [v.version for v in answer.model_version_status] == [123]
        assert answer.model_version_status[0].state == 30  # AVAILABLE


def test_a_new_version_takes_over_and_a_broken_one_does_not(folder, tmp_path):
    shutil.copytree(folder / "123", tmp_path / "1")
    model = Model("toy", str(tmp_path))
    model.refresh()
    (tmp_path / "unfinished-2").mkdir()
    assert not model.refresh()
    (tmp_path / "2").mkdir()
    assert model.refresh() and not model.refresh()
    assert model.version()[0] == 1
    assert [(v, s) for v, s, _ in model.status()] == [(2, "END"), (1, "AVAILABLE")]
    shutil.copytree(folder / "123", tmp_path / "3")
    assert model.refresh() and model.version()[0] == 3
    assert [s for _, s, _ in model.status()] == ["AVAILABLE", "END", "END"]
    # What was being copied loads when it is there; after what is taken away comes the one before.
    shutil.copytree(folder / "123", tmp_path / "4", ignore=shutil.ignore_patterns("variables*"))
    assert model.refresh() and model.version()[0] == 3
    shutil.copytree(folder / "123", tmp_path / "4", dirs_exist_ok=True)
    assert model.refresh() and model.version()[0] == 4
    shutil.rmtree(tmp_path / "4")
    assert model.refresh() and model.version()[0] == 3
