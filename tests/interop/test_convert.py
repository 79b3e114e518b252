"""Converting folders both ways, and the tool as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import d2v_tf
from d2v_tf.data.tokenization import train_tokenizer
from d2v_tf.interop.convert import convert
from d2v_tf.interop.key_map import WeightsError
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


def test_it_names_what_it_leaves_out_and_overwrites_nothing(tmp_path):
    source = tmp_path / "theirs"
    d2v_tf.save_huggingface(make_backbone("text"), source)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "type_vocab_size": 1}))
    lines = []
    convert(str(source), str(tmp_path / "preset"), say=lines.append)
    assert lines[-1].endswith("as preset, without preprocessing, as the source has none")
    with pytest.raises(WeightsError, match="--to: .*preset exists and is no empty folder"):
        convert(str(source), str(tmp_path / "preset"))
    with pytest.raises(WeightsError, match="--format: 'onnx' is none of preset, huggingface"):
        convert(str(source), str(tmp_path / "other"), "onnx")


def test_the_tool(tmp_path):
    make_backbone("speech").save_to_preset(str(tmp_path / "preset"))

    def run(*arguments):
        command = [sys.executable, str(TOOL), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)

    target = tmp_path / "theirs"
    done = run(f"--from={tmp_path}/preset", f"--to={target}", "--format=huggingface")
    assert done.returncode == 0, done.stderr
    assert "a preset (Data2VecSpeechBackbone)" in done.stdout.splitlines()[0]
    assert {path.name for path in target.iterdir()} == {"config.json", "model.safetensors"}
    done = run(f"--from={tmp_path}/nothing", f"--to={tmp_path}/x")
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path}/nothing: does not exist. ")
    assert "Traceback" not in done.stderr
    done = run("--from=x", "--to=y", "--format=onnx")
    assert done.returncode == 1 and "--format=onnx" in done.stderr
