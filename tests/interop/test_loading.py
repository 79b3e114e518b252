"""What `load_backbone` takes and what it refuses."""

import json

import pytest

import d2v_tf
from d2v_tf.interop.key_map import WeightsError
from tests.interop.tiny import assert_same_backbone, make_backbone


@pytest.mark.parametrize("name", ["vision_per_block", "speech_invariant", "text"])
def test_a_preset_and_the_folder_of_a_run(name, tmp_path, capsys):
    backbone = make_backbone(name)
    backbone.save_to_preset(str(tmp_path / "run" / "preset"))
    (tmp_path / "run" / "config.yaml").write_text("seed: 0\n")
    for path in (tmp_path / "run" / "preset", tmp_path / "run"):
        assert_same_backbone(d2v_tf.load_backbone(path), backbone)
        said = capsys.readouterr().out
        assert f"run/preset: a preset ({type(backbone).__name__})" in said
    half = d2v_tf.load_backbone(tmp_path / "run", dtype="mixed_bfloat16", verbose=False)
    assert half.compute_dtype == "bfloat16"


def test_the_dtype_of_a_hugging_face_folder(tmp_path):
    d2v_tf.save_huggingface(make_backbone("text"), tmp_path)
    backbone = d2v_tf.load_backbone(tmp_path, dtype="mixed_bfloat16", verbose=False)
    assert backbone.encoder.compute_dtype == "bfloat16"


def test_paths_that_are_nothing(tmp_path):
    with pytest.raises(WeightsError, match="facebook/data2vec-audio-base: does not exist. .* down"):
        d2v_tf.load_backbone("facebook/data2vec-audio-base")
    with pytest.raises(WeightsError, match="has no config.json. Give a preset folder of d2v_tf, "):
        d2v_tf.load_backbone(tmp_path)
    (tmp_path / "seed_0").mkdir()
    with pytest.raises(WeightsError, match="of several seeds. Give one, such as .*/seed_0"):
        d2v_tf.load_backbone(tmp_path)
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    with pytest.raises(WeightsError, match="this run is not finished, it has no preset/ yet"):
        d2v_tf.load_backbone(tmp_path)
    with pytest.raises(WeightsError, match="config.yaml: no readable PyTorch file"):
        d2v_tf.load_backbone(tmp_path / "config.yaml")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match="neither model_type nor registered_name"):
        d2v_tf.load_backbone(tmp_path)


def test_presets_of_others_and_broken_ones(tmp_path):
    make_backbone("text").save_to_preset(str(tmp_path))
    path = tmp_path / "config.json"
    config = path.read_text()
    other = {**json.loads(config), "registered_name": "keras_hub>BertBackbone"}
    path.write_text(json.dumps(other))
    with pytest.raises(WeightsError, match="registered_name is 'keras_hub>BertBackbone'; only"):
        d2v_tf.load_backbone(tmp_path)
    path.write_text(config)
    weights = tmp_path / "model.weights.h5"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(WeightsError, match="this preset cannot be read"):
        d2v_tf.load_backbone(tmp_path)
    weights.unlink()
    with pytest.raises(WeightsError, match="this preset cannot be read"):
        d2v_tf.load_backbone(tmp_path)
