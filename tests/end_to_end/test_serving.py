"""The README's section on serving, as a user pastes it, on a machine with only TensorFlow."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.images import picture
from tests.exporting.models import REFUSE_OURS, image_classifier

ROOT = Path(__file__).resolve().parents[2]


def blocks(language):
    """The README's blocks of a language in its section on serving."""
    section = (ROOT / "README.md").read_text().split("## Serve a model")[1]
    found = re.findall(r"^```(\w*)\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    return [block for kind, block in found if kind == language]


def run(command, folder, **options):
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=300, **options
    )


def free_ports():
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a fine-tuned run, exported and checked by the README's commands, and a cat."""
    root = tmp_path_factory.mktemp("serving")
    classifier, converter = image_classifier()
    preset = root / "runs" / "cats" / "preset"
    classifier.save_to_preset(str(preset))
    converter.save_to_preset(str(preset))
    Image.fromarray(picture(0)).save(root / "cat.jpg")
    return root


@pytest.fixture(scope="module")
def exported(folder):
    """What the README's two commands said."""
    said = []
    (commands,) = [b for b in blocks("") if "tools/export.py --from" in b]
    for line in commands.splitlines():
        if "tools/export.py" in line:
            arguments = line.split("#")[0].split()[1:]
            done = run([sys.executable, ROOT / arguments[0], *arguments[1:]], folder)
            assert done.returncode == 0, done.stderr
            said.append(done.stdout)
    return said


@pytest.fixture(scope="module")
def server(folder, exported, tmp_path_factory):
    """(port of REST, port of gRPC) of the README's server, which cannot import ours."""
    rest, rpc = free_ports()
    block = tmp_path_factory.mktemp("block")
    (block / "sitecustomize.py").write_text(REFUSE_OURS)
    (command,) = [b for b in blocks("") if "tools/serve.py" in b]
    arguments = command.split()[1:]
    process = subprocess.Popen(
        [
            *(sys.executable, ROOT / arguments[0], *arguments[1:]),
            *(f"--rest_api_port={rest}", f"--port={rpc}"),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(block)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if line.startswith("REST"):
            break
    assert process.poll() is None, process.stderr.read()
    assert lines[0] == "cats version 1: AVAILABLE" and lines[1].startswith("gRPC")
    yield rest, rpc
    process.terminate()
    process.communicate()


def test_export_and_check_say_what_there_is(exported):
    first, last = exported[0].splitlines()
    assert "Data2VecImageClassifier" in first and last.startswith("served/cats/1: written; ")
    lines = exported[1].splitlines()
    outputs = "label string [?], logits float32 [?, 3], probabilities float32 [?, 3]"
    assert f"serving_default: image_bytes string [?] -> {outputs}" in lines
    assert lines[-1] == "warm-up: 2 requests replayed"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_requests_by_rest(server, folder):
    rest, _ = server
    (script,) = blocks("bash")
    script = script.replace("8501", str(rest)).replace("curl", "curl -sS")
    # A line break after each answer, so that they can be told apart.
    script = re.sub(r"(http://\S+)", r"\1 -w '\\n@@\\n'", script)
    done = run(["bash", "-e", "-o", "pipefail", "-c", script], folder)
    assert done.returncode == 0, done.stderr
    status, metadata, rows, columns = [
        json.loads(answer) for answer in done.stdout.split("@@\n") if answer.strip()
    ]
    assert status["model_version_status"][0]["state"] == "AVAILABLE"
    assert set(metadata["metadata"]["signature_def"]["signature_def"]) == {
        "serving_default",
        "features",
    }
    classifier, converter = image_classifier()
    with Image.open(folder / "cat.jpg") as opened:
        image = converter(np.asarray(opened)[None])
    logits = np.asarray(classifier(image))[0]
    (prediction,) = rows["predictions"]
    # Pillow and TensorFlow decode a JPEG to within a step of each other.
    np.testing.assert_allclose(prediction["logits"], logits, atol=0.2)
    assert prediction["label"] == classifier.class_names[np.argmax(prediction["logits"])]
    assert np.shape(columns["outputs"]["embedding"]) == (1, 12)
    assert np.shape(columns["outputs"]["hidden_states"]) == (1, 10, 12)


def test_requests_by_grpc(server, folder):
    _, rpc = server
    (program,) = blocks("python")
    done = run([sys.executable, "-c", program.replace("8500", str(rpc))], folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("[b'cat']", "[b'dog']", "[b'fish']")


def test_what_is_wrong_is_one_line(folder, exported):
    cases = [
        (["export.py", "--from=runs/cats", "--to=served/cats", "--version=1"], "cats/1 exists"),
        (["serve.py", f"--model_base_path={folder}/none"], "has no version that loads"),
    ]
    for (tool, *arguments), message in cases:
        done = run([sys.executable, ROOT / "tools" / tool, *arguments], folder)
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        assert message in done.stderr.splitlines()[-1]
