"""A data service, one process of it apart, gives the batches that a run decodes itself."""

import functools
import io
import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from d2v_tf.config import load_recipe
from d2v_tf.data.reading import DataError
from d2v_tf.data.service import decoded_by, open_services
from d2v_tf.training.modalities import modality_of
from tests.data.images import write_tree
from tests.end_to_end.test_pretrain import TINY

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs" / "pretrain"


@pytest.fixture(scope="module")
def services():
    """Two of them, as a user starts them: nothing of this process is there."""
    processes = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "tools" / "serve_data.py"), "--port=0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(2)
    ]
    said = [process.stdout.readline() for process in processes]
    assert all(line.startswith("data service: grpc://127.0.0.1:") for line in said), said
    yield open_services([line.split()[-1] for line in said])
    for process in processes:
        process.terminate()
        process.communicate()


def open_data(modality, *settings):
    recipe = load_recipe(CONFIGS / f"{modality}_tiny.yaml", ["batch_size=8", *settings])
    return modality_of(recipe).open_data(recipe, warn=print)


def take(dataset, count=3):
    return list(dataset.take(count).as_numpy_iterator())


def test_batches_are_those_of_the_run_at_every_update_and_worker(services, tmp_path):
    write_tree(tmp_path, 10)
    vision = open_data("vision", f"data.source=folder:{tmp_path}")
    for data, step, workers in ((vision, 5, (1, 0)), (open_data("text"), 2, (2, 1))):
        data.check_services(services, 2)
        batches = functools.partial(data.batches, step)
        served = decoded_by(services, batches)(*workers)
        assert served.element_spec == batches(*workers).element_spec
        for one, other in zip(take(served), take(batches(*workers)), strict=True):
            assert one.keys() == other.keys()
            for name in other:
                np.testing.assert_array_equal(one[name], other[name])


def test_an_example_that_cannot_be_read_stops_the_run_by_name(services, tmp_path):
    from d2v_tf.training.pretrain import pretrain
    from d2v_tf.training.strategy import Replicas, open_replicas

    paths = write_tree(tmp_path / "photos", 8, classes=("",))
    paths[3].write_bytes(b"no image")
    small = ["num_layers=1", "hidden_dim=16", "num_heads=2", "intermediate_dim=16"]
    settings = [f"data.source=folder:{tmp_path}/photos", "steps=2", "batch_size=8", "xla=false"]
    settings += ["data2vec.num_target_layers=1", *(f"model.{setting}" for setting in small)]
    recipe = load_recipe(CONFIGS / "vision_tiny.yaml", settings)
    replicas = Replicas(open_replicas("cpu").strategy, services=services)
    with pytest.raises(DataError, match="photos cannot be read, and a data service does not repl"):
        pretrain(recipe, str(tmp_path / "run"), Console(file=io.StringIO()), replicas=replicas)


def test_what_a_service_cannot_do_is_refused():
    with pytest.raises(DataError, match="nowhere is no address: expected grpc://HOST:PORT"):
        open_services(["nowhere"])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(DataError, match=f"{port}: nobody answers .*Start tools/serve_data.py"):
        open_services([f"grpc://127.0.0.1:{port}"])
    with pytest.raises(DataError, match="a batch of 8 examples cannot be shared equally by 3 serv"):
        open_data("text").check_services(["a", "b", "c"], 1)


def test_a_process_ends_after_its_service_is_gone():
    code = (
        "import sys, tensorflow as tf\n"
        "from d2v_tf.data import process_end\n"
        "from d2v_tf.data.service import decoded_by, open_services\n"
        "process_end.PATIENCE = 2\n"
        "numbers = tf.data.Dataset.range(8).repeat().batch(2, drop_remainder=True)\n"
        "served = decoded_by(open_services([sys.argv[1]]), lambda *_: numbers)(1, 0)\n"
        "iterator = iter(served)\n"
        "print(next(iterator).shape, flush=True)\n"
        "sys.stdin.readline()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    tool = [sys.executable, str(ROOT / "tools" / "serve_data.py"), "--port=0"]
    service = subprocess.Popen(tool, **pipes)
    address = service.stdout.readline().split()[-1]
    reader = subprocess.Popen([sys.executable, "-c", code, address], **pipes)
    assert reader.stdout.readline() == "(2,)\n"
    service.kill()
    service.communicate()
    reader.communicate("\n", timeout=120)
    assert reader.returncode == 0


def test_a_run_whose_service_is_gone_ends_and_goes_on_without_it(tmp_path):
    code = (
        "import json, sys\n"
        "from d2v_tf.config import load_recipe\n"
        "from d2v_tf.data import service\n"
        "from d2v_tf.training.pretrain import pretrain\n"
        "from d2v_tf.training.strategy import Replicas, open_replicas\n"
        "service.LOOK_SECONDS, service.SILENT_SECONDS = 0.2, 1.0\n"
        "config, workdir, address, settings = sys.argv[1:]\n"
        "replicas = Replicas(open_replicas('cpu').strategy, services=(address,))\n"
        "pretrain(load_recipe(config, json.loads(settings)), workdir, replicas=replicas)\n"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    tool = [sys.executable, str(ROOT / "tools" / "serve_data.py"), "--port=0"]
    service = subprocess.Popen(tool, **{**pipes, "stderr": subprocess.DEVNULL})
    address = service.stdout.readline().split()[-1]
    config = str(CONFIGS / "vision_tiny.yaml")
    settings = [*TINY, "steps=1000000", "checkpoint_every=1", "keep_checkpoints=1"]
    settings += ["data.probe_examples=20"]
    arguments = [config, str(tmp_path), address, json.dumps(settings)]
    run = subprocess.Popen([sys.executable, "-c", code, *arguments], **pipes)
    while not list(tmp_path.glob("checkpoints/*.index")):
        assert run.poll() is None, run.communicate()
        time.sleep(0.1)
    service.kill()
    service.communicate()
    _, stderr = run.communicate(timeout=120)
    assert run.returncode == 1
    told = stderr.splitlines()[-1]
    assert told.startswith(f"error: --data_service={address}: nobody has answered for ")
    assert told.endswith("and the same command goes on from the newest checkpoint.")
    assert list(tmp_path.glob("checkpoints/*.index"))


def test_audio_is_refused(tmp_path):
    from tests.data.audio import write_tree as write_audio

    write_audio(tmp_path, [0.3] * 4)
    data = open_data("speech", f"data.source=folder:{tmp_path}", "data.min_seconds=0.1")
    with pytest.raises(DataError, match="audio is decoded by Python, which it has not"):
        data.check_services(["grpc://a:1"], 1)
