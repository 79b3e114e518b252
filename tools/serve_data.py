"""Decodes the input of runs on other machines: python tools/serve_data.py --port=5050.

One process of tf.data's service for `tools/pretrain.py --data_service=grpc://HOST:PORT`. It takes
TensorFlow alone, and has to find the data under the paths that the run has. It listens on all of
this machine's addresses, whatever --host says, and whoever reaches the port can have it read and
write files: keep it inside a network of your own.
"""

import os
import sys
import threading

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow starts: its banner
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # it decodes, and leaves GPUs to the run
from absl import app, flags  # noqa: E402

FLAGS = flags.FLAGS
flags.DEFINE_integer("port", 5050, "Where runs reach it; 0 takes a free one.", lower_bound=0)
flags.DEFINE_string("host", "127.0.0.1", "The name or address by which runs reach this machine.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument: {argv[1]}")
    import tensorflow as tf

    service = tf.data.experimental.service
    try:
        dispatcher = service.DispatchServer(service.DispatcherConfig(port=FLAGS.port))
    except tf.errors.OpError as error:
        sys.exit(f"error: --port={FLAGS.port}: {error.message.splitlines()[0]}")
    _, port = dispatcher.target.rsplit(":", 1)
    worker = service.WorkerServer(  # noqa: F841  (it ends with what refers to it)
        service.WorkerConfig(
            dispatcher_address=f"localhost:{port}", worker_address=f"{FLAGS.host}:%port%"
        )
    )
    print(f"data service: grpc://{FLAGS.host}:{port}", flush=True)
    try:
        threading.Event().wait()  # Ctrl-C does not reach worker.join()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    app.run(main)
