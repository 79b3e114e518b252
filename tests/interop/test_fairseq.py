"""Files of fairseq and BEiT against the Hugging Face models that they are made from."""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import d2v_tf
from d2v_tf.interop.fairseq_config import read_layers
from d2v_tf.interop.key_map import WeightsError
from d2v_tf.interop.loading import load_start, load_with_report
from d2v_tf.interop.originals import open_original
from tests.interop import published
from tests.interop.published import linear, torch, write
from tests.interop.tiny import assert_same_backbone, make_inputs
from tests.parity.models import assert_close

TOOL = Path(__file__).resolve().parents[2] / "tools" / "convert.py"
CONFIGS = ("omegaconf", "dict", "dataclass", "namespace")


class Touch:
    """Pickled, it runs a command when it is unpickled by whoever executes what it finds."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def load(path):
    """Our backbone, of which every variable must have been read."""
    assert "omegaconf.dictconfig" not in sys.modules and "fairseq.choices" not in sys.modules
    backbone, report = load_with_report(path)
    assert not report.missing and len(report.mapped) == len(backbone.weights)
    return backbone, report


def assert_equal_outputs(backbone, model):
    inputs = make_inputs(backbone)
    if isinstance(backbone, d2v_tf.Data2VecVisionBackbone):
        theirs = {"pixel_values": torch.tensor(inputs.transpose(0, 3, 1, 2))}
        real = np.ones((2, backbone.output_shape[1]), bool)
    else:
        names = {"waveform": "input_values", "token_ids": "input_ids"}
        names["padding_mask"] = "attention_mask"
        theirs = {names[name]: torch.tensor(value) for name, value in inputs.items()}
        real = np.asarray(backbone.feature_padding_mask(inputs))
    with torch.no_grad():
        outputs = model(**theirs, output_hidden_states=True)
    blocks = backbone.block_features(inputs, kind="block")
    assert len(blocks) == len(outputs.hidden_states) - 1
    for block, hidden in zip(blocks, outputs.hidden_states[1:], strict=True):
        assert_close(np.asarray(block)[real], hidden[torch.tensor(real)])
    assert_close(np.asarray(backbone(inputs))[real], outputs.last_hidden_state[torch.tensor(real)])


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("config", CONFIGS)
def test_speech(config, zipped, tmp_path):
    model = published.speech_model()
    fields = {**published.SPEECH_FIELDS, "extractor_mode": "layer_norm"}
    path = tmp_path / "audio_base_ls.pt"
    write(path, published.speech_state(model), config, fields, zipped)
    backbone, report = load(path)
    assert report.kind == "a fairseq file (data2vec_audio)"
    assert report.unused == report.pretraining == report.assumed == ()
    assert (backbone.padding, backbone.conv_strides) == ("reference", (5, 2, 2))
    assert (backbone.dropout, backbone.attention_dropout) == (0.25, 0.125)
    assert (backbone.layer_drop, backbone.num_heads) == (0.05, 3)
    if config == "omegaconf":
        assert_equal_outputs(backbone, model)


def test_speech_with_biases_teacher_and_head(tmp_path):
    model, teacher = published.speech_model(conv_bias=True), published.speech_model(conv_bias=True)
    with torch.no_grad():
        for weight in teacher.parameters():
            weight *= 1.5
    state = published.speech_state(model, teacher)
    ((kernel, bias),) = linear(12, 12)
    state["final_proj.weight"], state["final_proj.bias"] = kernel, bias
    path = tmp_path / "audio.pt"
    write(path, state, "dict", published.SPEECH_FIELDS | {"conv_bias": True})
    backbone, report = load(path)
    assert_equal_outputs(backbone, model)
    assert report.unused == ()
    assert (
        "final_proj.bias" in report.pretraining and "_ema.layers.1.fc2.bias" in report.pretraining
    )
    assert f"; {len(report.pretraining)} tensors are a teacher's or" in report.summary()
    start = load_start(path)
    assert_same_backbone(start.backbone, backbone)
    np.testing.assert_array_equal(start.head[0], kernel.numpy().T)
    np.testing.assert_array_equal(start.head[1], bias.numpy())
    assert start.head_keys == ("final_proj.weight", "final_proj.bias")
    expected, _ = _as_file(published.speech_state(teacher), tmp_path, conv_bias=True)
    _assert_same_weights(start.teacher.encoder, expected.encoder)
    # What student and teacher share is not the teacher's.
    rest = set(report.pretraining) - set(start.teacher_keys) - set(start.head_keys)
    assert rest == {"_ema.layer_norm.weight", "_ema.layer_norm.bias"} | {
        f"_ema.pos_conv.{i}.0.{name}" for i in range(3) for name in ("weight", "bias")
    }


def _as_file(state, folder, **fields):
    write(folder / "other.pt", state, "dict", published.SPEECH_FIELDS | fields)
    return load(folder / "other.pt")


def _assert_same_weights(got, expected):
    assert len(got.weights) == len(expected.weights) > 0
    for one, two in zip(got.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(two), one.path)


def test_speech_that_was_fine_tuned(tmp_path):
    """The model is wrapped, and so is the configuration of its architecture."""
    model = published.speech_model()
    state = {f"w2v_encoder.w2v_model.{k}": v for k, v in published.speech_state(model).items()}
    state["w2v_encoder.proj.weight"], state["w2v_encoder.proj.bias"] = linear(12, 5)[0]
    for inner in (
        {"model": published.SPEECH_FIELDS, "task": {"data": "/data"}},
        argparse.Namespace(**published.SPEECH_FIELDS),
    ):
        fields = {"_name": "wav2vec_ctc", "dropout": 0.0, "layerdrop": 0.1, "w2v_args": inner}
        write(tmp_path / "ctc.pt", state, "dict", fields)
        with pytest.warns(UserWarning, match="2 tensors are not the backbone's .*w2v_encoder.proj"):
            backbone = d2v_tf.load_backbone(tmp_path / "ctc.pt", verbose=False)
        assert backbone.dropout == 0.25
        assert_equal_outputs(backbone, model)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("config", ["omegaconf", "flat"])
def test_text(config, zipped, tmp_path):
    model, teacher = published.text_model(), published.text_model(initializer_range=0.2)
    state = published.text_state(model, teacher)
    ends = ("0.weight", "0.bias", "2.weight", "2.bias")
    layers = [tensor for layer in linear(12, 24, 12) for tensor in layer]
    state |= {f"encoder.regression_head.{e}": t for e, t in zip(ends, layers, strict=True)}
    fields = published.TEXT_FIELDS
    if config == "flat":  # as before the fields were nested
        encoder = fields["transformer"]["encoder"]
        fields = {k: v for k, v in fields["transformer"].items() if k != "encoder"}
        fields |= {f"encoder_{name}": value for name, value in encoder.items()}
    kind = "namespace" if config == "flat" else config
    write(tmp_path / "nlp_base.pt", state, kind, fields, zipped)
    backbone, report = load(tmp_path / "nlp_base.pt")
    assert report.kind == "a fairseq file (data2vec_text)"
    assert (report.unused, report.assumed) == ((), ())
    assert report.constants == ("encoder.sentence_encoder.version",)
    assert (backbone.num_heads, backbone.max_sequence_length, backbone.dropout) == (3, 10, 0.25)
    assert_equal_outputs(backbone, model)
    start = load_start(tmp_path / "nlp_base.pt")
    for got, expected in zip(start.head, layers, strict=True):
        np.testing.assert_array_equal(got, expected.numpy().T)
    write(tmp_path / "other.pt", published.text_state(teacher), kind, fields)
    _assert_same_weights(start.teacher.encoder, load(tmp_path / "other.pt")[0].encoder)


@pytest.mark.parametrize("layout", ["model", "module", "bare", "prefixed", "legacy"])
@pytest.mark.parametrize("positions", ["shared", "per_block", "absolute"])
def test_vision(positions, layout, tmp_path):
    model = published.vision_model(positions)
    state = published.vision_state(model)
    if layout == "prefixed":
        state = {f"module.{key}": tensor for key, tensor in state.items()}
    args = argparse.Namespace(
        model="beit_tiny", input_size=12, drop_path=0.25, layer_scale_init_value=0.1,
        rel_pos_bias=positions != "absolute", abs_pos_emb=positions == "absolute",
    )  # fmt: skip
    content = {"module" if layout == "module" else "model": state, "args": args, "epoch": 799}
    path = tmp_path / "checkpoint.pth"
    if positions == "absolute":  # without tables, no shape shows the heads
        with pytest.raises(WeightsError, match="does not say how many attention heads"):
            torch.save(content, path)
            load(path)
        model = published.vision_model(positions, hidden_size=128, num_attention_heads=2)
        content[next(iter(content))] = state = published.vision_state(model)
    torch.save(
        state if layout == "bare" else content,
        path,
        _use_new_zipfile_serialization=layout != "legacy",
    )
    backbone, report = load(path)
    assert backbone.image_shape == (12, 12, 3) and backbone.patch_size == 4
    assert (backbone.relative_position_bias or "absolute") == positions
    assert report.unused == ()
    assert backbone.drop_path_rate == (0.0 if layout == "bare" else 0.25)
    assert any("heads" in line for line in report.assumed) == (positions == "absolute")
    if layout in ("model", "module"):
        assert_equal_outputs(backbone, model)


def test_vision_that_was_fine_tuned_is_without_norm_and_mask_token(tmp_path):
    model = published.vision_model("per_block", use_mean_pooling=True)
    state = published.vision_state(model)
    del state["mask_token"]
    state["fc_norm.weight"], state["fc_norm.bias"] = torch.ones(12), torch.zeros(12)
    state["head.weight"], state["head.bias"] = linear(12, 5)[0]
    path = tmp_path / "finetuned.pth"
    torch.save({"model": state}, path)
    backbone, report = load_with_report(path)
    assert backbone.final_norm is None
    assert report.missing == ("mask_token.embedding",)
    assert report.unused == ("fc_norm.bias", "fc_norm.weight", "head.bias", "head.weight")
    assert_equal_outputs(backbone, model)


def test_vision_with_a_teacher_and_a_head(tmp_path):
    model, teacher = published.vision_model(), published.vision_model(layer_norm_eps=1e-3)
    with torch.no_grad():
        teacher.encoder.layer[0].lambda_1 += 1
    state = published.vision_state(model)
    state["lm_head.weight"], state["lm_head.bias"] = linear(12, 12)[0]
    path = tmp_path / "checkpoint-799.pth"
    torch.save({"model": state, "model_ema": published.vision_state(teacher)}, path)
    _, report = load(path)
    assert report.unused == ()
    start = load_start(path)
    assert start.head_keys == ("lm_head.weight", "lm_head.bias")
    torch.save({"model": published.vision_state(teacher)}, tmp_path / "other.pth")
    _assert_same_weights(start.teacher.encoder, load(tmp_path / "other.pth")[0].encoder)
    # BEiT's own head names tokens of an image, which is no regression.
    state["lm_head.weight"], state["lm_head.bias"] = linear(12, 40)[0]
    torch.save({"model": state}, path)
    _, report = load(path)
    assert report.unused == ("lm_head.bias", "lm_head.weight")
    assert load_start(path).head == [] and load_start(path).teacher is None


def test_half_precision_and_another_image_size(tmp_path):
    state = {k: v.half() for k, v in published.vision_state(published.vision_model()).items()}
    torch.save({"module": state}, tmp_path / "mp_rank_00_model_states.pt")
    backbone, _ = load(tmp_path / "mp_rank_00_model_states.pt")
    larger = d2v_tf.load_backbone(
        tmp_path / "mp_rank_00_model_states.pt", image_shape=(20, 20, 3), verbose=False
    )
    assert larger.image_shape == (20, 20, 3)
    expected = d2v_tf.interop.loading.resize_backbone(backbone, (20, 20))
    assert_same_backbone(larger, expected)


def test_what_the_file_does_not_say_is_assumed_aloud(tmp_path, capsys):
    sizes = {"hidden_size": 128, "num_attention_heads": 2}
    kernels, strides = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
    model = published.speech_model(
        **sizes, conv_dim=(4,) * 7, conv_kernel=kernels, conv_stride=strides,
        num_feat_extract_layers=7,
    )  # fmt: skip
    write(tmp_path / "audio.pt", published.speech_state(model), "none")
    backbone = d2v_tf.load_backbone(tmp_path / "audio.pt")
    assert (backbone.num_heads, backbone.conv_strides) == (2, strides)
    said = capsys.readouterr().out
    assert "assumed: strides (5, 2, 2, 2, 2, 2, 2), the published ones, 2 attention heads" in said
    waveform = np.random.default_rng(0).normal(size=(2, 2000)).astype("float32")
    with torch.no_grad():
        expected = model(torch.tensor(waveform)).last_hidden_state
    assert_close(np.asarray(backbone({"waveform": waveform})), expected)

    write(tmp_path / "audio.pt", published.speech_state(published.speech_model()), "none")
    with pytest.raises(WeightsError, match="does not say what strides its convolutions have"):
        load(tmp_path / "audio.pt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_layers": 3}, "encoder_layers is 3 and its tensors show 2"),
        ({"encoder_embed_dim": 24, "pos_conv_depth": 1},
         "encoder_embed_dim is 24 and its tensors show 12; pos_conv_depth is 1 and its tensors"),
        ({"layer_norm_first": True}, "layer_norm_first is True, which is not supported; only Fal"),
        ({"activation_fn": "relu"}, "activation_fn is 'relu', which is not supported; only 'gel"),
        ({"extractor_mode": "default"}, "extractor_mode is 'default', which is not supported"),
        ({"dropout": "much"}, "dropout is 'much'; a value like 0.1 is needed"),
        ({"encoder_attention_heads": 5}, "encoder_attention_heads is 5; a divisor of 12"),
        ({"encoder_attention_heads": 0}, "encoder_attention_heads is 0; a divisor of 12"),
        ({"encoder_attention_heads": -3}, "encoder_attention_heads is -3; a divisor of 12"),
        ({"conv_feature_layers": "[(6, 10, 5)] * 3"},
         r"conv_feature_layers has .* \[\(6, 10, 5\), \(6, 10, 5\), \(6, 10, 5\)\] and its"),
        ({"conv_feature_layers": "__import__('os').getpid()"}, ".*is no list of convolutions"),
    ],
)  # fmt: skip
def test_a_configuration_that_does_not_fit_is_named(changes, message, tmp_path):
    state = published.speech_state(published.speech_model())
    fields = {**published.SPEECH_FIELDS, **changes}
    if "extractor_mode" in changes:
        write(tmp_path / "a.pt", state, "none", cfg={"model": fields})
    else:
        write(tmp_path / "a.pt", state, "omegaconf", fields)
    with pytest.raises(WeightsError, match=f"a.pt: in its configuration, {message}"):
        load(tmp_path / "a.pt")


def test_text_by_its_older_names(tmp_path):
    models = published.text_model(), published.text_model()
    state = published.text_state(models[0], teacher=models[1])
    write(tmp_path / "new.pt", state, "dict", published.TEXT_FIELDS)
    older = {
        re.sub(r"^encoder\.", "decoder.", key).replace(
            ".layernorm_embedding.", ".emb_layer_norm."
        ): value
        for key, value in state.items()
    }
    assert any("emb_layer_norm" in key for key in older) and not any(
        "encoder._" in k for k in older
    )
    write(tmp_path / "old.pt", older, "dict", published.TEXT_FIELDS)
    new, old = (open_original(tmp_path / name) for name in ("new.pt", "old.pt"))
    assert_same_backbone(old.backbone, new.backbone)
    assert not old.report.unused and old.teacher()[1] == new.teacher()[1]


def test_layers_with_a_gap_are_refused_before_a_model_is_made_of_them(tmp_path):
    state = published.speech_state(published.speech_model())
    state["encoder.layers.9000.fc1.weight"] = torch.ones((20, 12))
    write(tmp_path / "a.pt", state, "none")
    with pytest.raises(WeightsError, match="a.pt: it lacks encoder.layers.2"):
        load(tmp_path / "a.pt")


def test_scaled_embeddings_are_refused(tmp_path):
    transformer = {**published.TEXT_FIELDS["transformer"], "no_scale_embedding": False}
    state = published.text_state(published.text_model())
    write(tmp_path / "a.pt", state, "dict", {"transformer": transformer})
    with pytest.raises(WeightsError, match="no_scale_embedding is False, which is not supported"):
        load(tmp_path / "a.pt")


def test_missing_and_unknown_keys_and_wrong_shapes_are_named(tmp_path):
    state = published.speech_state(published.speech_model())
    state["quantizer.vars"] = torch.ones(3)
    state["num_updates"] = 3  # no tensor
    write(tmp_path / "a.pt", state, "dict", published.SPEECH_FIELDS)
    with pytest.warns(UserWarning, match="2 tensors are not .* quantizer.vars, num_updates$"):
        d2v_tf.load_backbone(tmp_path / "a.pt", verbose=False)
    del state["encoder.layers.0.fc2.bias"], state["mask_emb"]
    state["encoder.layers.1.fc1.weight"] = torch.ones((12, 20))
    write(tmp_path / "a.pt", state, "dict", published.SPEECH_FIELDS)
    with pytest.raises(WeightsError) as caught:
        load(tmp_path / "a.pt")
    assert str(caught.value) == (
        f"{tmp_path}/a.pt: its tensors do not fit its configuration. 2 missing: mask_emb, "
        "encoder.layers.0.fc2.bias. 1 of another shape: encoder.layers.1.fc1.weight is (12, 20), "
        "not (20, 12)."
    )
    del state["encoder.layers.0.fc1.weight"]
    write(tmp_path / "a.pt", state, "dict", published.SPEECH_FIELDS)
    with pytest.raises(WeightsError, match="a.pt: it lacks encoder.layers.0.fc1.weight"):
        load(tmp_path / "a.pt")


def test_other_models_are_refused_by_name(tmp_path):
    path = tmp_path / "a.pt"
    state = published.speech_state(published.speech_model())
    weight = state.pop("encoder.pos_conv.0.0.weight")
    write(path, {**state, "encoder.pos_conv.0.weight_g": weight}, "none")
    with pytest.raises(WeightsError, match="one weight-normalized convolution, wav2vec 2.0's"):
        load(path)
    write(path, {"modality_encoders.AUDIO.local_encoder.0.weight": weight}, "none")
    with pytest.raises(WeightsError, match="it is of data2vec 2.0, which is not read"):
        load(path)
    write(path, {"layer1.0.conv1.weight": weight}, "none")
    with pytest.raises(WeightsError, match="0 models of data2vec.* layer1.0.conv1.weight$"):
        load(path)
    torch.save([weight], path)
    with pytest.raises(WeightsError, match="it holds no dict, which a checkpoint is"):
        load(path)
    vision = published.vision_state(published.vision_model())
    table = vision["rel_pos_bias.relative_position_bias_table"]
    torch.save({**vision, "blocks.0.attn.relative_position_bias_table": table}, path)
    with pytest.raises(WeightsError, match="in every block and shared ones, which is not"):
        load(path)
    torch.save({**vision, "rel_pos_bias.relative_position_bias_table": table[1:]}, path)
    with pytest.raises(WeightsError, match="its 27 positions are for no square grid of patches"):
        load(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_with_a_program_in_it_is_read_and_not_executed(zipped, tmp_path):
    trace = tmp_path / "executed"
    model = published.speech_model()
    state = published.speech_state(model)
    fields = {**published.SPEECH_FIELDS, "mask_selection": Touch(trace)}
    write(tmp_path / "a.pt", {**state, "extra": Touch(trace)}, "dict", fields, zipped)
    backbone, report = load(tmp_path / "a.pt")
    assert report.unused == ("extra",)
    assert_equal_outputs(backbone, model)
    state["mask_emb"] = Touch(trace)
    write(tmp_path / "a.pt", state, "dict", fields, zipped)
    with pytest.raises(WeightsError, match="1 missing: mask_emb"):
        load(tmp_path / "a.pt")
    assert not trace.exists()
    with published.foreign_classes():
        torch.load(tmp_path / "a.pt", weights_only=False)
    assert trace.exists()  # the file would have done it


def test_the_text_of_convolutions():
    assert read_layers("[(512, 10, 5)] + [(512, 3, 2)] * 2 + [(512,2,2)] + [(512,2,2)]") == [
        (512, 10, 5), (512, 3, 2), (512, 3, 2), (512, 2, 2), (512, 2, 2),
    ]  # fmt: skip
    for text in ("", "open('x')", "[(1, 2)]", "[(1, 2, 3)] * 9999999", "3", "[[1, 2, 3]]", "[(", 
                 "[(1, 2, 3)] * [(1, 2, 3)]", "[(0, 1, 1)]", "[x for x in (1, 2, 3)]"):  # fmt: skip
        with pytest.raises(ValueError, match="is no list of convolutions"):
            read_layers(text)


def test_the_tool_converts_a_file_without_pytorch(tmp_path):
    model = published.speech_model()
    state = published.speech_state(model, model)
    write(tmp_path / "audio.pt", state, "omegaconf", published.SPEECH_FIELDS)
    backbone, report = load(tmp_path / "audio.pt")
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')\n")
    done = subprocess.run(
        [sys.executable, TOOL, f"--from={tmp_path}/audio.pt", f"--to={tmp_path}/theirs",
         "--format=huggingface"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{tmp_path}/audio.pt: a fairseq file (data2vec_audio), ")
    assert lines[1 : len(report.pretraining) + 1] == [
        f"not the model's, not converted: {key}" for key in report.pretraining
    ]
    assert lines[-1].endswith("as huggingface, without preprocessing, as the source has none")
    assert_same_backbone(d2v_tf.load_backbone(tmp_path / "theirs", verbose=False), backbone)
    assert json.loads((tmp_path / "theirs/config.json").read_text())["num_attention_heads"] == 3
