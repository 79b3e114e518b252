"""Serves an exported model on this machine: python tools/serve.py --model_base_path=$PWD/served/x.

Speaks as tensorflow_model_server does, for trying a model out: REST, and gRPC where
tensorflow-serving-api is installed. It answers this machine only, loads one model, and knows
neither batching nor encryption. Production runs TensorFlow Serving.
"""

import os
import sys
import threading

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow starts: its banner
from absl import app, flags  # noqa: E402

FLAGS = flags.FLAGS
flags.DEFINE_string("model_base_path", None, "Folder of the model's versions.", required=True)
flags.DEFINE_string("model_name", None, "Default: the folder's name.")
flags.DEFINE_integer("rest_api_port", 8501, "Port of REST; 0 takes a free one.", lower_bound=0)
flags.DEFINE_integer("port", 8500, "Port of gRPC; 0 takes a free one, -1 none.", lower_bound=-1)
flags.DEFINE_float(
    "file_system_poll_wait_seconds", 1.0, "How often to look for a version.", lower_bound=0.01
)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument: {argv[1]}")
    from serving.rest import make_rest_server
    from serving.saved_models import Model, register_text_operations

    if not register_text_operations():
        print("tensorflow-text is not installed: models of texts will not load", flush=True)

    folder = os.path.abspath(FLAGS.model_base_path)
    model = Model(FLAGS.model_name or os.path.basename(folder), folder)
    model.refresh()
    report(model)
    try:
        model.version()
    except Exception:
        sys.exit(f"error: --model_base_path={FLAGS.model_base_path} has no version that loads")
    models = {model.name: model}
    grpc_server = start_grpc(models)  # noqa: F841  (it ends with what refers to it)
    try:
        rest = make_rest_server(models, FLAGS.rest_api_port)
    except OSError as error:
        sys.exit(f"error: --rest_api_port={FLAGS.rest_api_port}: {error.strerror}")
    threading.Thread(target=watch, args=(model,), daemon=True).start()
    print(f"REST: http://127.0.0.1:{rest.server_port}/v1/models/{model.name}", flush=True)
    try:
        rest.serve_forever()
    except KeyboardInterrupt:
        pass


def start_grpc(models):
    if FLAGS.port == -1:
        return None
    try:
        from serving.grpc_services import make_grpc_server
    except ImportError:
        print("no gRPC: tensorflow-serving-api is not installed", flush=True)
        return None
    try:
        server, port = make_grpc_server(models, FLAGS.port)
    except RuntimeError as error:
        sys.exit(f"error: --port={FLAGS.port}: {error}")
    server.start()
    print(f"gRPC: 127.0.0.1:{port}", flush=True)
    return server


def report(model):
    for version, (state, message) in model.states.items():
        print(f"{model.name} version {version}: {state} {message}".rstrip(), flush=True)


def watch(model):
    wait = threading.Event()
    while not wait.wait(FLAGS.file_system_poll_wait_seconds):
        if model.refresh():
            report(model)


if __name__ == "__main__":
    app.run(main)
