"""docs/serving.md, as a user pastes it, on a machine with only TensorFlow."""

import functools
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
import soundfile
from PIL import Image

import d2v_tf
from tests.data.images import picture
from tests.exporting.models import (
    NAMES,
    REFUSE_OURS,
    image_classifier,
    recognizer,
    text_model,
    waveforms,
)
from tests.forked_tools import run_tool

ROOT = Path(__file__).resolve().parents[2]
SPEECH = dict(zip(("hello.wav", "world.wav"), waveforms(), strict=False))
# What the document calls a model: what is served there.
MODELS = {
    "speech": recognizer,
    "reviews": text_model,
    "pairs": lambda: text_model(1, None),
}


@functools.cache
def served_model(name):
    """A model that is always the same, and what makes its input."""
    return MODELS[name]()


def blocks(language):
    """The document's blocks of a language."""
    text = (ROOT / "docs" / "serving.md").read_text()
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
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
    """A folder with a fine-tuned run, and files to ask about."""
    root = tmp_path_factory.mktemp("serving")
    classifier, converter = image_classifier()
    preset = root / "runs" / "cats" / "preset"
    classifier.save_to_preset(str(preset))
    converter.save_to_preset(str(preset))
    Image.fromarray(picture(0)).save(root / "cat.jpg")
    for name, waveform in SPEECH.items():
        soundfile.write(root / name, waveform, 16_000, subtype="FLOAT")
    return root


@pytest.fixture(scope="module")
def exported(folder):
    """What the document's two commands said."""
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
def serve(folder, exported, tmp_path_factory):
    """Function of a model's name to (port of REST, port of gRPC) of the document's server for it.

    The server cannot import ours. The first call starts it.
    """
    block = tmp_path_factory.mktemp("block")
    (block / "sitecustomize.py").write_text(REFUSE_OURS)
    (command,) = [b for b in blocks("") if "tools/serve.py" in b]
    started = {}

    def serve(name):
        if name not in started:
            if name in MODELS:
                model, layer = served_model(name)
                d2v_tf.export(model, folder / "served" / name, layer, pairs=name == "pairs")
            started[name] = start(command.replace("cats", name), folder, block)
        return started[name][1:]

    yield serve
    for process, *_ in started.values():
        process.terminate()
        process.communicate()


def start(command, folder, block):
    """(process, port of REST, port of gRPC)."""
    rest, rpc = free_ports()
    tool, *arguments = command.split()[1:]
    process = subprocess.Popen(
        [sys.executable, ROOT / tool, *arguments, f"--rest_api_port={rest}", f"--port={rpc}"],
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
    assert lines[0].endswith(" version 1: AVAILABLE") and lines[1].startswith("gRPC")
    return process, rest, rpc


def paste(script, serve, folder):
    """The answers to a block's requests, as JSON says them."""
    script = re.sub(r"8501(?=/v1/models/(\w+))", lambda m: str(serve(m[1])[0]), script)
    script = script.replace("curl", "curl -sS").replace(".venv/bin/python", sys.executable)
    # A line break after each answer, so that they can be told apart.
    script = re.sub(r"(http://\S+)", r"\1 -w '\\n@@\\n'", script)
    done = run(["bash", "-e", "-o", "pipefail", "-c", script], folder)
    assert done.returncode == 0, done.stderr
    return [json.loads(answer) for answer in done.stdout.split("@@\n") if answer.strip()]


def test_export_and_check_say_what_there_is(exported):
    first, about, last = exported[0].splitlines()
    assert "Data2VecImageClassifier" in first and last.startswith("served/cats/1: written; ")
    assert about == "asked about images"
    lines = exported[1].splitlines()
    outputs = "label string [?], logits float32 [?, 3], probabilities float32 [?, 3]"
    assert f"serving_default: image_bytes string [?] -> {outputs}" in lines
    assert lines[-1] == "warm-up: 2 requests replayed"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
class TestRest:
    def test_images(self, serve, folder):
        script, *_ = blocks("bash")
        status, metadata, rows, columns = paste(script, serve, folder)
        assert status["model_version_status"][0]["state"] == "AVAILABLE"
        signatures = metadata["metadata"]["signature_def"]["signature_def"]
        assert set(signatures) == {"serving_default", "features"}
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

    def test_speech(self, serve, folder):
        _, script, _ = blocks("bash")
        of_file, of_numbers, padded = (a["predictions"] for a in paste(script, serve, folder))
        model, converter = served_model("speech")
        inputs = converter(list(SPEECH.values()))
        logits, lengths = np.asarray(model(inputs)), np.asarray(model.frame_lengths(inputs))
        assert [row["lengths"] for row in padded] == lengths.tolist()
        for (row,) in (of_file, of_numbers, padded[:1]):
            np.testing.assert_allclose(row["logits"], logits[0], atol=1e-5)
            assert row["text"] == padded[0]["text"]
        real = slice(lengths[1])
        np.testing.assert_allclose(padded[1]["logits"][real], logits[1, real], atol=1e-5)

    @pytest.mark.slow  # two exports, and two servers that load them
    def test_texts_and_pairs(self, serve, folder):
        *_, script = blocks("bash")
        texts, pairs, features = paste(script, serve, folder)
        assert [row["label"] in NAMES for row in texts["predictions"]] == [True, True]
        model, layer = served_model("pairs")
        preprocessor = d2v_tf.Data2VecTextClassifierPreprocessor(layer, 14)
        inputs = preprocessor((["a text"], ["another"]), None)
        (prediction,) = pairs["predictions"]
        expected = np.asarray(model(inputs, training=False))[0, 0]
        assert prediction["value"] == pytest.approx(expected, abs=1e-5)
        (length,) = features["outputs"]["lengths"]
        assert length == np.sum(inputs["padding_mask"])
        mean = np.mean(features["outputs"]["hidden_states"][0], axis=0)
        np.testing.assert_allclose(features["outputs"]["embedding"][0], mean, atol=1e-5)


def test_requests_by_grpc(serve, folder):
    _, rpc = serve("cats")
    (program,) = blocks("python")
    done = run([sys.executable, "-c", program.replace("8500", str(rpc))], folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("[b'cat']", "[b'dog']", "[b'fish']")


def test_an_onnx_file(folder):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    command = ("export.py", "--from=runs/cats", "--to=files/cats.onnx", "--format=onnx")
    done = run([sys.executable, ROOT / "tools" / command[0], *command[1:]], folder)
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.splitlines()
    assert "Data2VecImageClassifier" in first and last == "files/cats.onnx: written"
    assert os.listdir(folder / "files") == ["cats.onnx"]
    again = run_tool(*command, cwd=folder)
    assert again.returncode == 1 and "error: --to: files/cats.onnx exists. " in again.stderr


@pytest.mark.parametrize(
    "flag", ["--version=2", "--nopairs", "--warmup", "--max_seconds=3", "--preprocessing=x"]
)
def test_what_a_file_does_not_have(folder, flag):
    done = run_tool(
        "export.py", "--from=runs/cats", "--to=x.onnx", "--format=onnx", flag, cwd=folder
    )
    name = flag.removeprefix("--").removeprefix("no").split("=")[0]
    assert done.returncode == 1 and f"--{name} is of no use to --format=onnx" in done.stderr


def test_what_is_wrong_is_one_line(folder, exported):
    cases = [
        (["export.py", "--from=runs/cats", "--to=served/cats", "--version=1"], "cats/1 exists"),
        (["export.py", "--from=runs/cats", "--to=cat.jpg"], "cat.jpg is no folder"),
        (["serve.py", f"--model_base_path={folder}/none"], "has no version that loads"),
    ]
    for (tool, *arguments), message in cases:
        done = run([sys.executable, ROOT / "tools" / tool, *arguments], folder)
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        assert message in done.stderr.splitlines()[-1]
