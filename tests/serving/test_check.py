"""What `tools/export.py --check` finds, in models with one thing wrong each."""

import shutil

import pytest
import tensorflow as tf
from serving.check import WARMUP, check_model
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from tests.serving.toy import write_toy


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A model without fault: its outputs all have a batch."""
    root = tmp_path_factory.mktemp("whole")
    write_toy(root / "1")
    change(root / "1", lambda signatures: signatures.pop("mean"))
    write_warmup(root / "1", {"x": [1.0]}, {"x": [2.0]})
    return root


@pytest.fixture
def model(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "model")


def change(version, edit):
    path = version / "saved_model.pb"
    content = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    edit(content.meta_graphs[0].signature_def)
    path.write_bytes(content.SerializeToString())


def write_warmup(version, *requests, signature="serving_default"):
    (version / WARMUP).parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(version / WARMUP)) as writer:
        for inputs in requests:
            request = predict_pb2.PredictRequest()
            request.model_spec.signature_name = signature
            for name, value in inputs.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(value, tf.float32))
            log = prediction_log_pb2.PredictLog(request=request)
            writer.write(prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString())


def test_a_whole_model(model):
    lines = []
    assert check_model(model, say=lines.append) == []
    assert "serving_default: x float32 [?] -> y float32 [?]" in lines
    assert lines[-1] == "warm-up: 2 requests replayed"


def break_variables(version):
    (version / "variables" / "variables.index").write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda v: shutil.rmtree(v), "has no version"),
        (lambda v: v.rename(v.parent / "v1"), "has no version"),
        (lambda v: (v / "saved_model.pb").unlink(), "saved_model.pb cannot be read"),
        (lambda v: (v / "saved_model.pb").write_bytes(b"\xff" * 9), "is no SavedModel"),
        (break_variables, "does not load"),
        (lambda v: change(v, lambda s: s.pop("serving_default")), "no signature is named serving"),
        (
            lambda v: setattr_in(v, "serving_default", "method_name", "other"),
            "its method is 'other'",
        ),
        (lambda v: fix_batch(v), "input x has shape \\(3,\\): its batch is not free"),
        (lambda v: write_warmup(v, {"y": [1.0]}), "record 1.*Missing but required: {x}"),
        (lambda v: write_warmup(v, {"x": [1.0]}, signature="no"), "record 1.*not found"),
        (lambda v: write_warmup(v, {"x": [float("nan")]}), "y has numbers that are not finite"),
        (lambda v: (v / WARMUP).write_bytes(b"nothing that is a record"), "cannot be read"),
        (lambda v: write_warmup(v, *[{"x": [1.0]}] * 1001), "a server takes 1000"),
    ],
)
def test_what_is_wrong_is_named(model, damage, problem):
    damage(model / "1")
    problems = "\n".join(check_model(model, say=lambda line: None))
    pytest.raises(ValueError, _raise, problems).match(problem)


def _raise(message):
    raise ValueError(message)


def setattr_in(version, name, attribute, value):
    change(version, lambda signatures: setattr(signatures[name], attribute, value))


def fix_batch(version):
    def edit(signatures):
        signatures["serving_default"].inputs["x"].tensor_shape.dim[0].size = 3

    change(version, edit)


def test_labels_are_counted(tmp_path):
    class Labelled(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def answer(self, x):
            return {"logits": tf.stack([x, -x], axis=1)}

    module = Labelled()
    tf.saved_model.save(module, str(tmp_path / "1"), signatures=module.answer)
    (tmp_path / "1" / "assets").mkdir(exist_ok=True)
    (tmp_path / "1" / "assets" / "labels.txt").write_text("a\nb\n")
    assert check_model(tmp_path, say=lambda line: None) == []
    (tmp_path / "1" / "assets" / "labels.txt").write_text("a\nb\nc\n")
    (problem,) = check_model(tmp_path, say=lambda line: None)
    assert "has 3 lines, and there are 2 logits" in problem


def test_an_older_version_is_checked_where_it_is_named(model):
    shutil.copytree(model / "1", model / "2")
    break_variables(model / "2")
    lines = []
    assert check_model(model, 1, lines.append) == [] and "checked: 1" in lines
    (problem,) = check_model(model, say=lambda line: None)
    assert f"{model}/2 does not load" in problem
    assert check_model(model, 3, lambda line: None) == [f"{model} has no version 3."]


def test_without_a_folder(tmp_path):
    (problem,) = check_model(tmp_path / "none")
    assert "none cannot be read (No such file or directory)" in problem
