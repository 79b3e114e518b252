"""Files for LiteRT and ONNX, each run by its own runtime."""

import os

import keras
import numpy as np
import pytest

from d2v_tf.errors import UserError
from d2v_tf.exporting.other_formats import export_file
from d2v_tf.exporting.requests import ExportError
from tests.exporting.models import audio_tagger, image_classifier, recognizer, text_model
from tests.finetuning.tiny_ctc import batch
from tests.interop.tiny import make_backbone, make_inputs

TASKS = {"image": image_classifier, "audio": audio_tagger, "ctc": recognizer, "text": text_model}


def model_and_inputs(name):
    if name in TASKS:
        model, _ = TASKS[name]()
        inputs = batch()[0] if name == "ctc" else make_inputs(model.backbone)
    else:
        model = make_backbone(name)
        inputs = make_inputs(model)
    if isinstance(inputs, dict):
        inputs = {k: x.astype("float32" if k == "waveform" else "int32") for k, x in inputs.items()}
    return model, inputs


def run_onnx(path, inputs):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    session = runtime.InferenceSession(path)
    feeds = inputs if isinstance(inputs, dict) else {"images": inputs}
    assert {i.name for i in session.get_inputs()} == set(feeds)
    assert [o.name for o in session.get_outputs()] == ["Identity:0"]
    return session.run(None, feeds)[0]


def run_litert(path, inputs):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="LiteRT is missing")
    return interpreter.Interpreter(path).get_signature_runner()(images=inputs)["output_0"]


RUN = {"litert": run_litert, "onnx": run_onnx}


@pytest.mark.parametrize(
    ("name", "file_format"),
    [
        ("vision_per_block", "litert"),
        ("image", "litert"),
        ("vision_per_block", "onnx"),
        ("speech", "onnx"),
        ("text_other_padding", "onnx"),
        *((task, "onnx") for task in TASKS),
    ],
)
def test_they_compute_the_same(name, file_format, tmp_path):
    model, inputs = model_and_inputs(name)
    path = str(tmp_path / f"model.{'tflite' if file_format == 'litert' else 'onnx'}")
    export_file(model, path, file_format)
    np.testing.assert_allclose(RUN[file_format](path, inputs), np.asarray(model(inputs)), atol=2e-5)
    assert os.listdir(tmp_path) == [os.path.basename(path)]


def test_a_converter_that_fails_leaves_nothing(tmp_path, monkeypatch):
    model, path = make_backbone("vision_per_block"), str(tmp_path / "new" / "x.onnx")
    failures = [ValueError("no such\noperation"), OSError(28, "No space left on device")]

    def fail(model, path, **_):
        with open(path, "w") as file:
            file.write("half")
        raise failures.pop(0)

    monkeypatch.setattr(keras.Model, "export", fail)
    with pytest.raises(ExportError, match="converter failed .ValueError: no such.. --format=saved"):
        export_file(model, path, "onnx")
    with pytest.raises(ExportError, match="x.onnx cannot be written .No space left on device"):
        export_file(model, path, "onnx")
    assert os.listdir(tmp_path / "new") == []


def test_what_is_not_written(tmp_path):
    """Most of it is said before a model is read: there is none at this path."""
    with pytest.raises(ExportError, match="a file of onnx must end in .onnx. Received: x.tflite"):
        export_file("nowhere", "x.tflite", "onnx")
    (tmp_path / "x.onnx").write_text("")
    with pytest.raises(ExportError, match="x.onnx exists"):
        export_file("nowhere", str(tmp_path / "x.onnx"), "onnx")
    with pytest.raises(ExportError, match="cannot be written .*x.onnx is no folder"):
        export_file("nowhere", str(tmp_path / "x.onnx" / "y.onnx"), "onnx")
    with pytest.raises(ExportError, match="writes float32 only: leave out --precision"):
        export_file("nowhere", str(tmp_path / "y.onnx"), "onnx", precision="bfloat16")
    with pytest.raises(UserError, match="nowhere: does not exist"):
        export_file("nowhere", str(tmp_path / "y.onnx"), "onnx")
    with pytest.raises(ExportError, match="of a vision model only"):
        export_file(make_backbone("text"), str(tmp_path / "y.tflite"), "litert")
    half = make_backbone("text", dtype="mixed_bfloat16")
    with pytest.raises(ExportError, match="writes float32 only, and the model computes in bfloat"):
        export_file(half, str(tmp_path / "y.onnx"), "onnx")
    assert os.listdir(tmp_path) == ["x.onnx"]
