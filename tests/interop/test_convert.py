"""Converting folders both ways, and the tool as a user runs it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import d2v_tf
from d2v_tf.data.tokenization import train_tokenizer
from d2v_tf.interop.convert import convert
from d2v_tf.interop.key_map import WeightsError
from d2v_tf.interop.loading import load_with_report
from tests.forked_tools import run_tool
from tests.interop.tiny import assert_same_backbone, make_backbone

TOOL = Path(__file__).resolve().parents[2] / "tools" / "convert.py"


def preprocessing_for(name):
    if name.startswith("vision"):
        return d2v_tf.Data2VecImageConverter(image_size=(12, 12), scale=0.01, antialias=True)
    if name.startswith("speech"):
        return d2v_tf.Data2VecAudioConverter()
    return train_tokenizer(["a rose is a rose is a rose"], 265).in_graph()


@pytest.mark.parametrize("name", ["vision_per_block", "speech_invariant", "text"])
def test_preset_to_hugging_face_and_back(name, tmp_path):
    backbone = make_backbone(name, **({"vocabulary_size": 270} if name == "text" else {}))
    preset, theirs, again = (str(tmp_path / x) for x in ("preset", "theirs", "again"))
    backbone.save_to_preset(preset)
    layer = preprocessing_for(name)
    layer.save_to_preset(preset)
    lines = []
    convert(preset, theirs, "huggingface", say=lines.append)
    assert len(lines) == 2 and lines[0].startswith(f"{preset}: a preset (")
    assert lines[1].endswith(f"as huggingface, with its {type(layer).__name__}")
    convert(theirs, again, "preset", say=lines.append)
    assert_same_backbone(d2v_tf.load_backbone(again, verbose=False), backbone)
    back = d2v_tf.load_preprocessing(again)
    assert type(back) is type(layer)
    if name == "text":
        text = ["a rose is red"]
        assert np.asarray(back(text)[0]).tolist() == np.asarray(layer(text)[0]).tolist()
    if name.startswith("vision"):
        image = np.random.default_rng(0).integers(0, 256, (1, 20, 30, 3)).astype("float32")
        np.testing.assert_allclose(np.asarray(back(image)), np.asarray(layer(image)), atol=1e-5)


def test_another_image_size(tmp_path):
    d2v_tf.save_huggingface(
        make_backbone("vision_per_block", image_shape=(12, 12, 1)),
        tmp_path / "small",
        preprocessing_for("vision"),
    )
    convert(str(tmp_path / "small"), str(tmp_path / "large"), image_size=24, say=lambda line: None)
    assert d2v_tf.load_backbone(tmp_path / "large").image_shape == (24, 24, 1)
    assert d2v_tf.load_preprocessing(tmp_path / "large").image_size == (24, 24)


def make_task(name):
    if name == "text":
        backbone = make_backbone("text", vocabulary_size=270)
        return d2v_tf.Data2VecTextClassifier(backbone, 2, class_names=["no", "yes"])
    if name.startswith("vision"):
        return d2v_tf.Data2VecImageClassifier(make_backbone(name, final_norm=False), 3)
    return d2v_tf.Data2VecSpeechCTC(make_backbone(name), ["<pad>", "|", "A", "B"])


@pytest.mark.parametrize("name", ["vision_per_block", "speech", "text"])
def test_a_head_comes_along_both_ways(name, tmp_path):
    task = make_task(name)
    d2v_tf.save_huggingface(task, tmp_path / "theirs", preprocessing_for(name))
    lines = []
    convert(str(tmp_path / "theirs"), str(tmp_path / "preset"), say=lines.append)
    assert f": {type(task).__name__} as preset, with its " in lines[-1]
    theirs = d2v_tf.load_task(tmp_path / "theirs", verbose=False)
    assert type(theirs.preprocessor) is type(task).preprocessor_cls
    convert(str(tmp_path / "preset"), str(tmp_path / "again"), "huggingface", say=lambda line: None)
    for folder in ("preset", "again"):
        read = d2v_tf.load_task(tmp_path / folder, verbose=False)
        assert type(read) is type(task)
        for ours, expected in zip(read.weights, task.weights, strict=True):
            np.testing.assert_array_equal(ours, expected)
        layer = d2v_tf.load_preprocessing(tmp_path / folder)
        assert type(layer) is type(preprocessing_for(name))
    raw = {
        "vision_per_block": np.full((1, 20, 30, 3), 9, "uint8"),
        "speech": np.ones((1, 600), "float32"),
        "text": np.array(["a rose"]),
    }[name]
    preset = d2v_tf.load_task(tmp_path / "preset", verbose=False)
    # By their preprocessors.
    np.testing.assert_allclose(
        preset.predict(raw, verbose=0), theirs.predict(raw, verbose=0), atol=1e-5
    )


def test_without_the_head(tmp_path):
    d2v_tf.save_huggingface(make_task("speech"), tmp_path / "theirs", preprocessing_for("speech"))
    (tmp_path / "theirs" / "vocab.json").unlink()
    with pytest.raises(WeightsError, match="vocab.json is missing.* tools/convert.py --nohead"):
        convert(str(tmp_path / "theirs"), str(tmp_path / "preset"), say=lambda line: None)
    lines = []
    convert(str(tmp_path / "theirs"), str(tmp_path / "preset"), head=False, say=lines.append)
    assert "not the model's, not converted: lm_head.bias" in lines
    assert d2v_tf.load_backbone(tmp_path / "preset", verbose=False).count_params()


def test_settings_that_cannot_be_written_leave_nothing_behind(tmp_path):
    preset = tmp_path / "preset"
    make_backbone("vision_per_block").save_to_preset(str(preset))
    d2v_tf.Data2VecImageConverter(image_size=(12, 12), interpolation="lanczos5").save_to_preset(
        str(preset)
    )
    for _ in range(2):  # the second time is refused for the same reason
        with pytest.raises(WeightsError, match="lanczos5"):
            convert(str(preset), str(tmp_path / "theirs"), "huggingface", say=lambda line: None)


def test_a_classifier_for_another_image_size(tmp_path):
    task = make_task("vision_per_block")
    d2v_tf.save_huggingface(task, tmp_path / "small", preprocessing_for("vision"))
    convert(str(tmp_path / "small"), str(tmp_path / "large"), image_size=24, say=lambda line: None)
    large = d2v_tf.load_task(tmp_path / "large", verbose=False)
    assert large.backbone.image_shape[:2] == (24, 24)
    np.testing.assert_array_equal(large.output_dense.kernel, task.output_dense.kernel)
    # With the preprocessor that belongs to it, however it is read.
    convert(str(tmp_path / "small"), str(tmp_path / "preset"), say=lambda line: None)
    resized = d2v_tf.load_task(tmp_path / "preset", image_shape=(24, 24, 3), verbose=False)
    image = np.random.default_rng(0).integers(0, 256, (1, 20, 30, 3)).astype("uint8")
    np.testing.assert_allclose(
        resized.predict(image, verbose=0), large.predict(image, verbose=0), atol=1e-5
    )
    backbone, _ = load_with_report(str(tmp_path / "small"), image_shape=(24, 24))
    assert_same_backbone(large.backbone, backbone)


def test_it_names_what_it_leaves_out_and_overwrites_nothing(tmp_path):
    source = tmp_path / "theirs"
    d2v_tf.save_huggingface(make_backbone("text"), source)
    tensors = load_file(source / "model.safetensors")
    save_file({**tensors, "lm_head.bias": np.ones(30, "float32")}, source / "model.safetensors")
    lines = []
    convert(str(source), str(tmp_path / "preset"), say=lines.append)
    assert "not the model's, not converted: lm_head.bias" in lines
    assert lines[-1].endswith("as preset, without preprocessing, as the source has none")
    with pytest.raises(WeightsError, match="--to: .*preset exists and is no empty folder"):
        convert(str(source), str(tmp_path / "preset"))
    with pytest.raises(WeightsError, match="--format: 'onnx' is none of preset, huggingface"):
        convert(str(source), str(tmp_path / "other"), "onnx")


def test_the_tool(tmp_path):
    make_backbone("speech").save_to_preset(str(tmp_path / "preset"))

    target = tmp_path / "theirs"
    arguments = f"--from={tmp_path}/preset", f"--to={target}", "--format=huggingface"
    command = [sys.executable, str(TOOL), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert "a preset (Data2VecSpeechBackbone)" in done.stdout.splitlines()[0]
    assert {path.name for path in target.iterdir()} == {"config.json", "model.safetensors"}
    done = run_tool("convert.py", f"--from={tmp_path}/nothing", f"--to={tmp_path}/x")
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path}/nothing: does not exist. ")
    assert "Traceback" not in done.stderr
    done = run_tool("convert.py", "--from=x", "--to=y", "--format=onnx")
    assert done.returncode == 1 and "--format=onnx" in done.stderr
