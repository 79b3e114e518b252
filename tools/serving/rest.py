"""TensorFlow Serving's REST interface on this machine only.

After `tensorflow_serving/g3doc/api_rest.md` of tensorflow/serving, and of paths and statuses
`model_servers/http_rest_api_util.cc`; classify and regress, which take `tf.Example`, are not there.
"""

import http
import json
import re
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from google.protobuf import json_format

from serving.errors import ServingError, invalid
from serving.json_tensors import read_request, write_response

MODEL = r"/v1/models/(?P<model>[^/:]+)(/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
# What TensorFlow Serving looks for in a request; all else under /v1/ is malformed.
PATHS = {
    "GET": re.compile(rf"{MODEL}(?P<what>/metadata)?", re.IGNORECASE),
    "POST": re.compile(rf"{MODEL}(?P<what>:(predict|classify|regress))", re.IGNORECASE),
}
MOST_BYTES = 2**28


def make_rest_server(models, port):
    """A server that is run by `serve_forever()`.

    Args:
        models: dict of name to `Model`.
        port: int. 0 takes a free one.

    Returns:
        `http.server.ThreadingHTTPServer`, whose `server_port` is the port.
    """
    handler = type("Handler", (_Handler,), {"models": models})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    return server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    models = {}

    def do_GET(self):
        if self.headers.get("Content-Length") or self.headers.get("Transfer-Encoding"):
            self.close_connection = True  # the body is not read
        self._answer(_get)

    do_HEAD = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = do_GET  # malformed, all of them

    def do_POST(self):
        if self.headers.get("Transfer-Encoding"):
            self.close_connection = True  # the body is not read
            self._send(411, {"error": "A body needs a Content-Length."})
            return
        try:
            size = int(self.headers.get("Content-Length") or 0)
        except ValueError:
            size = -1
        if not 0 <= size <= MOST_BYTES:
            self.close_connection = True  # the body is not read
            self._send(413 if size > 0 else 400, {"error": f"A body of {size} bytes is not read."})
            return
        body = self.rfile.read(size)
        self._answer(lambda model, number, what: _post(model, number, what, body))

    def send_error(self, code, message=None, explain=None):
        """What Python's own server refuses, in JSON, too."""
        self.close_connection = True
        self._send(code, {"error": message or http.HTTPStatus(code).phrase})

    def _answer(self, function):
        try:
            status, content = 200, function(*self._asked())
        except ServingError as error:
            status, content = error.http_status, {"error": error.message}
        except Exception as error:  # a server goes on
            self.log_error("%r", error)
            status, content = 500, {"error": f"internal error: {type(error).__name__}: {error}"}
        self._send(status, content)

    def _asked(self):
        """(`Model`, its version or `None`, what of it) that the request names."""
        where = self.path.split("?")[0]
        known = PATHS.get(self.command)
        path = known and known.fullmatch(where)
        if not path:
            malformed = f"Malformed request: {self.command} {where}"
            raise invalid(malformed) if _is_api(where) else ServingError("NOT_FOUND", malformed)
        name = urllib.parse.unquote(path["model"])
        number = None if path["version"] is None else int(path["version"])
        if name not in self.models or path["label"] is not None:
            which = f"{name}, label {path['label']}" if path["label"] else name
            raise ServingError("NOT_FOUND", f"Servable not found for request: Latest({which})")
        return self.models[name], number, (path["what"] or "").lower()

    def _send(self, status, content):
        encoded = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(encoded)

    def log_request(self, *_):
        pass  # a line a request is too much


def _is_api(where):
    return where.lower().startswith("/v1/")


def _get(model, number, what):
    if what == "/metadata":
        return _metadata(model, number)
    status = [
        {
            "version": str(version),
            "state": state,
            "status": {"error_code": "UNKNOWN" if message else "OK", "error_message": message},
        }
        for version, state, message in model.status(number)
    ]
    return {"model_version_status": status}


def _metadata(model, number):
    number, loaded = model.version(number)
    signatures = {
        name: json_format.MessageToDict(
            signature,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
        )
        for name, signature in loaded.signatures.items()
    }
    return {
        "model_spec": {"name": model.name, "signature_name": "", "version": str(number)},
        "metadata": {"signature_def": {"signature_def": signatures}},
    }


def _post(model, number, what, body):
    if what != ":predict":
        raise ServingError("UNIMPLEMENTED", f"POST of {what} is not there, only of :predict.")
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid(f"JSON Parse error: {error}") from None
    if not isinstance(content, dict):
        raise invalid("Request must be a JSON object.")
    name = content.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid('"signature_name" must be a string.')
    _, loaded = model.version(number)
    inputs, is_rows = read_request(content, loaded.signature(name))
    return write_response(loaded.run(name, inputs), is_rows)
