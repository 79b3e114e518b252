"""Folders that `transformers` writes and reads: heads, shards, and what we write."""

import numpy as np
import pytest

import d2v_tf
from d2v_tf.interop.huggingface_config import ACTIVATIONS
from d2v_tf.interop.loading import load_with_report
from tests.interop.tiny import BACKBONES, assert_same_backbone, make_backbone, make_inputs
from tests.parity.models import assert_close, perturbed, torch, transformers

VISION = {
    "image_size": 12,
    "patch_size": 4,
    "num_hidden_layers": 2,
    "hidden_size": 12,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "use_relative_position_bias": True,
    "use_mask_token": True,
}
SPEECH = {
    "num_hidden_layers": 2,
    "hidden_size": 12,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "conv_dim": (6, 7, 8),
    "conv_kernel": (10, 3, 2),
    "conv_stride": (5, 2, 2),
    "num_conv_pos_embeddings": 2,
    "conv_pos_kernel_size": 5,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 7,
    "classifier_proj_size": 6,
    "tdnn_dim": (5, 5, 8),
    "tdnn_kernel": (3, 1, 1),
    "tdnn_dilation": (1, 1, 1),
    "xvector_output_dim": 6,
}
TEXT = {
    "vocab_size": 30,
    "max_position_embeddings": 12,
    "type_vocab_size": 1,
    "num_hidden_layers": 2,
    "hidden_size": 12,
    "num_attention_heads": 3,
    "intermediate_size": 20,
}
# Class: (configuration, beginnings of the keys that are the head's).
HEADS = {
    "Data2VecVisionForImageClassification": (VISION, ("classifier.", "data2vec_vision.pooler.")),
    "Data2VecAudioForCTC": (SPEECH, ("lm_head.",)),
    "Data2VecAudioForSequenceClassification": (SPEECH, ("projector.", "classifier.")),
    "Data2VecAudioForXVector": (SPEECH, ("projector.", "tdnn.", "feature_", "class", "objective.")),
    "Data2VecTextForSequenceClassification": (TEXT, ("classifier.",)),
    "Data2VecTextForMaskedLM": (TEXT, ("lm_head.",)),
    "Data2VecTextForQuestionAnswering": (TEXT, ("qa_outputs.",)),
}


def config_for(name, fields):
    kind = name.split("For")[0]
    return getattr(transformers, f"{kind}Config")(**fields, attn_implementation="eager")


def run(model, backbone):
    """Last hidden states and every block's of a model without a head, for our inputs."""
    inputs = make_inputs(backbone)
    if isinstance(backbone, d2v_tf.Data2VecVisionBackbone):
        kwargs = {"pixel_values": inputs.transpose(0, 3, 1, 2)}
    elif isinstance(backbone, d2v_tf.Data2VecSpeechBackbone):
        kwargs = {"input_values": inputs["waveform"], "attention_mask": inputs["padding_mask"]}
    else:
        kwargs = {"input_ids": inputs["token_ids"], "attention_mask": inputs["padding_mask"]}
    kwargs = {name: torch.tensor(value) for name, value in kwargs.items()}
    if "attention_mask" in kwargs:
        kwargs["attention_mask"] = kwargs["attention_mask"].long()
    with torch.no_grad():
        outputs = model(**kwargs, output_hidden_states=True)
    return inputs, outputs.last_hidden_state, outputs.hidden_states[1:]


@pytest.mark.parametrize("name", HEADS)
def test_a_model_with_a_head_gives_its_backbone_and_names_the_rest(name, tmp_path):
    fields, beginnings = HEADS[name]
    config = config_for(name, fields)
    theirs = perturbed(getattr(transformers, name)(config))
    theirs.save_pretrained(tmp_path)
    ours, report = load_with_report(tmp_path)
    assert report.unused and not report.missing
    assert all(key.startswith(beginnings) for key in report.unused)
    base = getattr(theirs, theirs.base_model_prefix)
    inputs, last, blocks = run(base, ours)
    assert_close(ours(inputs), last)
    for got, expected in zip(ours.block_features(inputs, "block"), blocks, strict=True):
        assert_close(got, expected)


def test_shards_as_they_are_written(tmp_path):
    theirs = perturbed(transformers.Data2VecTextModel(config_for("Data2VecTextFor", TEXT)))
    theirs.save_pretrained(tmp_path / "one")
    theirs.save_pretrained(tmp_path / "many", max_shard_size="4KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    assert not (tmp_path / "many" / "model.safetensors").exists()
    expected, _ = load_with_report(tmp_path / "one")
    got, report = load_with_report(tmp_path / "many")
    assert_same_backbone(got, expected)
    assert report.unused == ("pooler.dense.bias", "pooler.dense.weight")


@pytest.mark.parametrize("name", BACKBONES)
def test_transformers_reads_what_we_write(name, tmp_path):
    ours = make_backbone(name)
    d2v_tf.save_huggingface(ours, tmp_path)
    options = {"add_pooling_layer": False} if not name.startswith("speech") else {}
    theirs, info = transformers.AutoModel.from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager", **options
    )
    assert not any(info.values()), info
    written = sorted(theirs.state_dict())
    theirs.save_pretrained(tmp_path / "again")
    again, report = load_with_report(tmp_path / "again")
    assert sorted(k for keys in report.mapped.values() for k in keys) == written
    assert_same_backbone(again, ours)

    if name == "speech_invariant":  # theirs always pads as the reference
        ours.positions.padding = "reference"
    inputs, last, blocks = run(theirs.eval(), ours)
    assert_close(ours(inputs), last)
    for got, expected in zip(ours.block_features(inputs, "block"), blocks, strict=True):
        assert_close(got, expected)


@pytest.mark.parametrize("theirs", ACTIVATIONS)
def test_activations_of_the_table_are_the_same_functions(theirs):
    import keras

    x = np.linspace(-8, 8, 401, dtype="float32")
    expected = transformers.activations.ACT2FN[theirs](torch.tensor(x)).numpy()
    got = keras.ops.convert_to_numpy(keras.activations.get(ACTIVATIONS[theirs])(x))
    np.testing.assert_allclose(got, expected, atol=1e-5)
