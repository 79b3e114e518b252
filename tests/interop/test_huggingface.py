"""Hugging Face folders: there and back to the bit, and every way in which one does not fit."""

import json
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import d2v_tf
from d2v_tf.interop.huggingface import MODELS
from d2v_tf.interop.huggingface_config import ACTIVATIONS
from d2v_tf.interop.key_map import WeightsError
from d2v_tf.interop.loading import load_with_report
from tests.interop.tiny import BACKBONES, assert_same_backbone, make_backbone


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.fixture
def folder(tmp_path):
    """A vision model's, to be spoiled."""
    d2v_tf.save_huggingface(make_backbone("vision_per_block"), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", BACKBONES)
def test_there_and_back_is_exact(name, tmp_path):
    backbone = make_backbone(name)
    d2v_tf.save_huggingface(backbone, tmp_path)
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1  # whoever may read the configuration may read the weights
    again, report = load_with_report(tmp_path)
    assert_same_backbone(again, backbone)
    assert report.unused == report.missing == report.constants == ()
    assert len(report.mapped) == len(backbone.weights)
    read = [key for keys in report.mapped.values() for key in keys]
    assert sorted(read) == sorted(load_file(tmp_path / "model.safetensors"))


def test_it_says_what_it_saw(folder, capsys):
    backbone = d2v_tf.load_backbone(folder)
    said = capsys.readouterr().out
    assert f"{folder}: a Hugging Face folder (data2vec-vision), " in said
    assert f"{len(backbone.weights)} variables read" in said
    d2v_tf.load_backbone(folder, verbose=False)
    assert not capsys.readouterr().out


def test_a_speech_model_of_others_pads_as_the_reference(tmp_path):
    d2v_tf.save_huggingface(make_backbone("speech_invariant"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("d2v_tf") == {"padding": "invariant", "feature_grad_mult": 0.1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    backbone = d2v_tf.load_backbone(tmp_path, verbose=False)
    assert (backbone.padding, backbone.feature_grad_mult) == ("reference", 1.0)


def test_keys_of_a_head_are_named_and_those_of_the_backbone_found(folder):
    expected = d2v_tf.load_backbone(folder, verbose=False)

    def add_head(tensors):
        for key in list(tensors):
            tensors[f"data2vec_vision.{key}"] = tensors.pop(key)
        tensors["classifier.weight"] = np.ones((5, 12), "float32")
        tensors["data2vec_vision.pooler.layernorm.bias"] = np.ones(12, "float32")

    edit_tensors(folder, add_head)
    names = "classifier.weight, data2vec_vision.pooler.layernorm.bias"
    with pytest.warns(UserWarning, match=f"2 tensors are not the backbone's .* {names}$"):
        got = d2v_tf.load_backbone(folder, verbose=False)
    assert_same_backbone(got, expected)


def test_what_only_follows_from_the_configuration_is_no_weight(folder):
    key = "encoder.layer.0.attention.attention.relative_position_bias.relative_position_index"
    edit_tensors(folder, lambda t: t.update({key: np.zeros((10, 10), "int64")}))
    d2v_tf.load_backbone(folder, verbose=False)  # without a warning, which would be an error
    assert load_with_report(folder)[1].constants == (key,)


def test_a_mask_token_that_the_configuration_denies_may_be_absent(folder):
    edit_tensors(folder, lambda t: t.pop("embeddings.mask_token"))
    with pytest.raises(WeightsError, match="1 missing: embeddings.mask_token"):
        d2v_tf.load_backbone(folder)
    edit_config(folder, use_mask_token=False)
    _, report = load_with_report(folder)
    assert report.missing == ("mask_token.embedding",)
    assert "not in the file and as initialized: mask_token.embedding" in report.summary()


def test_segments_that_no_input_has_are_reported(tmp_path):
    d2v_tf.save_huggingface(make_backbone("text"), tmp_path)
    edit_config(tmp_path, type_vocab_size=2)
    key = "embeddings.token_type_embeddings.weight"
    edit_tensors(tmp_path, lambda t: t.update({key: np.ones((2, 12), "float32")}))
    with pytest.warns(UserWarning, match=r"token_type_embeddings.weight\[1:\]"):
        d2v_tf.load_backbone(tmp_path, verbose=False)


def test_all_missing_keys_and_all_wrong_shapes_are_named(folder):
    def spoil(tensors):
        del tensors["layernorm.bias"]
        del tensors["encoder.layer.1.attention.attention.key.weight"]
        tensors["embeddings.cls_token"] = np.zeros((1, 1, 13), "float32")
        tensors["encoder.layer.0.intermediate.dense.weight"] = np.zeros((12, 20), "float32")

    edit_tensors(folder, spoil)
    with pytest.raises(WeightsError) as caught:
        d2v_tf.load_backbone(folder)
    assert str(caught.value) == (
        f"{folder}/model.safetensors: its tensors do not fit its configuration. 2 missing: "
        "encoder.layer.1.attention.attention.key.weight, layernorm.bias. 2 of another shape: "
        "embeddings.cls_token is (1, 1, 13), not (1, 1, 12); "
        "encoder.layer.0.intermediate.dense.weight is (12, 20), not (20, 12)."
    )


@pytest.mark.parametrize("content", [b"", b"nonsense" * 20, None])
def test_a_corrupt_file_is_named(folder, content):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7] if content is None else content)
    with pytest.raises(WeightsError, match=r"model.safetensors: no readable safetensors file \("):
        d2v_tf.load_backbone(folder)


def test_tensors_that_are_no_real_numbers_are_refused(folder):
    edit_tensors(folder, lambda t: t.update({"layernorm.bias": np.zeros(12, "int32")}))
    with pytest.raises(WeightsError, match="layernorm.bias holds int32, no real numbers"):
        d2v_tf.load_backbone(folder)


def test_a_folder_without_weights_names_what_it_may_hold(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="no weights. It must hold one of: model.safetensors, "):
        d2v_tf.load_backbone(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new', which is not supported; only gelu"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps is 'small'; a value like 1e-12 is needed"),
        ({"hidden_size": None}, "hidden_size is None; a value like 768 is needed"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True; a value like 12 is needed"),
        ({"num_attention_heads": 5}, "num_heads must divide hidden_dim"),
        ({"image_size": "large"}, "image_size is 'large'; an int or two of them are needed"),
        ({"patch_size": [4, 6]}, r"patch_size is \(4, 6\): patches must be square"),
        ({"use_shared_relative_position_bias": True}, ".* are both true, which is not supp"),
        ({"image_size": [12, 16]}, r"image_size is \(12, 16\): with positions, images that are"),
        ({"is_decoder": True}, "is_decoder is True, which is not supported; only False is"),
        ({"rope_theta": 1e4, "a": 1}, "unknown fields of data2vec-vision: a, rope_theta. If they"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}, which is not"),
        ({"d2v_tf": {"padding": "x"}}, "d2v_tf is {'padding': 'x'}; it may hold"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0; at least 1 is needed"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps is nan; at least 0 is needed"),
        ({"num_hidden_layers": 1}, "its configuration has fewer layers than there are weights: "),
        ({"model_type": "bert"}, "model_type is 'bert'; only these are read: data2vec-vision, "),
    ],
)
def test_what_the_configuration_of_a_vision_model_may_not_say(folder, changes, message):
    edit_config(folder, **changes)
    with pytest.raises(WeightsError, match=f"config.json: {message}"):
        d2v_tf.load_backbone(folder)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("speech", {"feat_extract_activation": "relu"}, "feat_extract_activation is 'relu', which"),
        ("speech", {"add_adapter": True}, "add_adapter is True, which is not supported"),
        ("speech", {"num_feat_extract_layers": 7}, "num_feat_extract_layers is 7, but conv_dim"),
        ("speech", {"conv_dim": [6, "7", 8]}, r"conv_dim is \[6, '7', 8\]; a value like \(512, "),
        ("speech", {"conv_stride": [0, 2, 2]}, r"conv_stride is \[0, 2, 2\]; at least 1 is needed"),
        ("speech", {"conv_stride": [5, 2]}, "must have one entry each a layer"),
        ("text", {"position_embedding_type": "relative_key"}, "is 'relative_key', which is not"),
        ("text", {"max_position_embeddings": 2}, "max_position_embeddings is 2, which leaves no"),
        ("text", {"type_vocab_size": 0}, "type_vocab_size is 0; at least 1 is needed"),
        ("text", {"pad_token_id": None}, "pad_token_id is None; a value like 1 is needed"),
    ],
)
def test_what_the_configurations_of_others_may_not_say(tmp_path, name, changes, message):
    d2v_tf.save_huggingface(make_backbone(name), tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(WeightsError, match=f"config.json: .*{message}"):
        d2v_tf.load_backbone(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_configuration_that_is_none(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(WeightsError, match="config.json: (cannot be read|it holds no JSON object)"):
        d2v_tf.load_backbone(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_shape": (12, 16, 3)}, r"image_shape is \(12, 16\): with positions, images that"),
        ({"activation": "softplus"}, "activation='softplus' has no name there; only gelu, "),
        ({"layer_scale_init_value": 0.0}, "layer_scale_init_value=0.0: there, a value that is"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, changes, message):
    backbone = make_backbone("vision_per_block", **changes)
    with pytest.raises(ValueError, match=f"cannot be written for transformers: {message}"):
        d2v_tf.save_huggingface(backbone, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_shards_are_put_together_and_their_faults_named(folder):
    expected = d2v_tf.load_backbone(folder, verbose=False)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {key: f"part_{i % 2}.safetensors" for i, key in enumerate(sorted(tensors))}
    for name in ("part_0.safetensors", "part_1.safetensors"):
        part = {key: tensors[key] for key, where in weight_map.items() if where == name}
        save_file(part, folder / name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert_same_backbone(d2v_tf.load_backbone(folder, verbose=False), expected)

    forgotten = {**load_file(folder / "part_1.safetensors"), "forgotten": np.ones(2, "float32")}
    save_file(forgotten, folder / "part_1.safetensors")
    _, report = load_with_report(str(folder))
    assert report.unused == ("forgotten",)

    index.write_text(json.dumps({"weight_map": {**weight_map, "more": "part_1.safetensors"}}))
    with pytest.raises(WeightsError, match="part_1.safetensors: it lacks, against .*: more"):
        d2v_tf.load_backbone(folder)
    index.write_text(json.dumps({"weight_map": {**weight_map, "more": "part_2.safetensors"}}))
    with pytest.raises(WeightsError, match="it names files that are not there: part_2.safetensors"):
        d2v_tf.load_backbone(folder)
    index.write_text("{}")
    with pytest.raises(WeightsError, match="no readable index of shards"):
        d2v_tf.load_backbone(folder)


def test_a_file_of_bfloat16_is_read_exactly(folder):
    ml_dtypes = pytest.importorskip("ml_dtypes")

    def shrink(tensors):
        for key, value in tensors.items():
            tensors[key] = value.astype(ml_dtypes.bfloat16)

    before = d2v_tf.load_backbone(folder, verbose=False)
    edit_tensors(folder, shrink)
    after = d2v_tf.load_backbone(folder, verbose=False)
    for one, two in zip(after.weights, before.weights, strict=True):
        assert one.dtype == "float32"
        expected = np.asarray(two).astype(ml_dtypes.bfloat16).astype("float32")
        np.testing.assert_array_equal(np.asarray(one), expected)


class TestTorchFiles:
    @pytest.fixture
    def bin_folder(self, folder):
        """The same weights as a file of PyTorch, in its newer form."""
        torch = pytest.importorskip("torch")
        tensors = {k: torch.tensor(v) for k, v in load_file(folder / "model.safetensors").items()}
        torch.save(tensors, folder / "pytorch_model.bin")
        return folder

    @pytest.mark.parametrize("zipped", [True, False])
    def test_they_are_read(self, bin_folder, zipped):
        torch = pytest.importorskip("torch")
        expected = d2v_tf.load_backbone(bin_folder, verbose=False)
        (bin_folder / "model.safetensors").unlink()
        path = bin_folder / "pytorch_model.bin"
        tensors = torch.load(path, weights_only=True)
        torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
        assert_same_backbone(d2v_tf.load_backbone(bin_folder, verbose=False), expected)

    def test_pytorch_is_not_needed(self, bin_folder, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch", None)  # as if not installed
        expected = d2v_tf.load_backbone(bin_folder, verbose=False)
        (bin_folder / "model.safetensors").unlink()
        assert_same_backbone(d2v_tf.load_backbone(bin_folder, verbose=False), expected)

    def test_nothing_in_them_is_executed(self, bin_folder, tmp_path):
        torch = pytest.importorskip("torch")
        (bin_folder / "model.safetensors").unlink()
        trace = tmp_path / "executed"
        torch.save({"a": Touch(str(trace))}, bin_folder / "pytorch_model.bin")
        with pytest.raises(WeightsError, match="something else than a dict of tensors"):
            d2v_tf.load_backbone(bin_folder)
        assert not trace.exists()

    @pytest.mark.parametrize("content", [b"", b"nonsense", None])
    def test_a_corrupt_one_is_named(self, bin_folder, content):
        (bin_folder / "model.safetensors").unlink()
        path = bin_folder / "pytorch_model.bin"
        path.write_bytes(path.read_bytes()[:-100] if content is None else content)
        with pytest.raises(WeightsError, match="pytorch_model.bin: no readable PyTorch file"):
            d2v_tf.load_backbone(bin_folder)

    def test_anything_but_a_dict_of_tensors_is_refused(self, bin_folder):
        torch = pytest.importorskip("torch")
        (bin_folder / "model.safetensors").unlink()
        torch.save({"epoch": 3}, bin_folder / "pytorch_model.bin")
        with pytest.raises(WeightsError, match="something else than a dict of tensors"):
            d2v_tf.load_backbone(bin_folder)


class Touch:
    """Pickled, it writes a file when it is unpickled by whoever executes what it finds."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_tables_and_names_do_not_contradict_themselves():
    for model in MODELS.values():
        assert not set(model.arguments) & set(model.special)
        assert not {*model.arguments, *model.special} & {*model.ignored, *model.required}
        ours = [row[0] for row in model.keys]
        theirs = [key for row in model.keys for key in row[2:]]
        assert len(set(ours)) == len(ours) and len(set(theirs)) == len(theirs)
    assert "gelu" in ACTIVATIONS
