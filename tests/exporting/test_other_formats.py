"""Files for LiteRT and ONNX, each run by its own runtime."""

import numpy as np
import pytest

from d2v_tf.exporting.other_formats import export_file
from d2v_tf.exporting.requests import ExportError
from tests.exporting.models import recognizer
from tests.finetuning.tiny_ctc import batch
from tests.interop.tiny import make_backbone, make_inputs


def model_and_inputs(name):
    if name == "ctc":
        model, inputs = recognizer()[0], batch()[0]
    else:
        model = make_backbone(name)
        inputs = make_inputs(model)
    if isinstance(inputs, dict):
        inputs = {k: x.astype("float32" if k == "waveform" else "int32") for k, x in inputs.items()}
    return model, inputs


def run_onnx(path, inputs):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    session = runtime.InferenceSession(path)
    feeds = {
        i.name: inputs[i.name] if isinstance(inputs, dict) else inputs for i in session.get_inputs()
    }
    return session.run(None, feeds)[0]


def run_litert(path, inputs):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="LiteRT is missing")
    runner = interpreter.Interpreter(path).get_signature_runner()
    names = runner.get_input_details()
    feeds = inputs if isinstance(inputs, dict) else {next(iter(names)): inputs}
    return next(iter(runner(**feeds).values()))


RUN = {"litert": run_litert, "onnx": run_onnx}


@pytest.mark.parametrize(
    ("name", "file_format"),
    [
        ("vision_per_block", "litert"),
        ("vision_per_block", "onnx"),
        ("text", "onnx"),
        ("ctc", "onnx"),
    ],
)
def test_they_compute_the_same(name, file_format, tmp_path):
    model, inputs = model_and_inputs(name)
    path = str(tmp_path / f"model.{'tflite' if file_format == 'litert' else 'onnx'}")
    export_file(model, path, file_format)
    np.testing.assert_allclose(RUN[file_format](path, inputs), np.asarray(model(inputs)), atol=2e-5)


def test_what_is_not_written(tmp_path):
    model, _ = model_and_inputs("text")
    with pytest.raises(ExportError, match="a file of onnx must end in .onnx. Received: x.tflite"):
        export_file(model, "x.tflite", "onnx")
    (tmp_path / "x.onnx").write_text("")
    with pytest.raises(ExportError, match="x.onnx exists"):
        export_file(model, str(tmp_path / "x.onnx"), "onnx")
    with pytest.raises(ExportError, match="of a vision model only"):
        export_file(model, str(tmp_path / "y.tflite"), "litert")
    half = make_backbone("text", dtype="mixed_bfloat16")
    with pytest.raises(ExportError, match="writes float32 only"):
        export_file(half, str(tmp_path / "y.onnx"), "onnx")
