"""Models with heads against `transformers`, read and written."""

import json

import numpy as np
import pytest

import d2v_tf
from d2v_tf.interop.key_map import WeightsError
from tests.interop.tiny import make_backbone, make_inputs
from tests.parity.models import assert_close, perturbed, torch, transformers
from tests.parity.test_folders import SPEECH, TEXT, VISION, config_for

NAMES = {0: "cat", 1: "dog", 2: "fish"}
LABELS = {"id2label": NAMES, "label2id": {name: i for i, name in NAMES.items()}}
VOCABULARY = ("<pad>", "<s>", "</s>", "<unk>", "|", "E", "'")
# Name: (their class, configuration, what is expected of ours).
TASKS = {
    "image, mean": (
        "Data2VecVisionForImageClassification",
        {**VISION, **LABELS},
        {"pooling": "mean", "class_names": ("cat", "dog", "fish")},
    ),
    "image, class token": (
        "Data2VecVisionForImageClassification",
        {**VISION, "use_mean_pooling": False, "num_labels": 4},
        {"pooling": "token", "class_names": None, "num_classes": 4},
    ),
    "audio": (
        "Data2VecAudioForSequenceClassification",
        {**SPEECH, **LABELS},
        {"multi_label": False, "projection_dim": 6, "class_names": ("cat", "dog", "fish")},
    ),
    "audio tags": (
        "Data2VecAudioForSequenceClassification",
        {**SPEECH, **LABELS, "problem_type": "multi_label_classification"},
        {"multi_label": True},
    ),
    "ctc": (
        "Data2VecAudioForCTC",
        {**SPEECH, "mask_time_prob": 0.2, "mask_feature_prob": 0.1, "final_dropout": 0.3},
        {"vocabulary": VOCABULARY, "time_mask_ratio": 0.2, "channel_mask_ratio": 0.1},
    ),
    "text": (
        "Data2VecTextForSequenceClassification",
        {**TEXT, **LABELS, "classifier_dropout": 0.3},
        {"dropout": 0.3, "num_classes": 3},
    ),
    "regression": (
        "Data2VecTextForSequenceClassification",
        {**TEXT, "num_labels": 1, "problem_type": "regression"},
        {"num_classes": 1},
    ),
}


def save(model, folder):
    """As published: with the letters where there are some."""
    model.save_pretrained(folder)
    if isinstance(model, transformers.Data2VecAudioForCTC):
        numbers = {letter: i for i, letter in enumerate(VOCABULARY)}
        (folder / "vocab.json").write_text(json.dumps(numbers))


def their_logits(model, inputs):
    if isinstance(inputs, dict) and "waveform" in inputs:
        kwargs = {"input_values": inputs["waveform"], "attention_mask": inputs["padding_mask"]}
    elif isinstance(inputs, dict):
        kwargs = {"input_ids": inputs["token_ids"], "attention_mask": inputs["padding_mask"]}
    else:
        kwargs = {"pixel_values": inputs.transpose(0, 3, 1, 2)}
    kwargs = {name: torch.tensor(value) for name, value in kwargs.items()}
    if "attention_mask" in kwargs:
        kwargs["attention_mask"] = kwargs["attention_mask"].long()
    with torch.no_grad():
        return model(**kwargs).logits


@pytest.mark.parametrize("name", TASKS)
def test_their_model_is_ours(name, tmp_path):
    architecture, fields, expected = TASKS[name]
    theirs = perturbed(getattr(transformers, architecture)(config_for(architecture, fields)))
    save(theirs, tmp_path)
    ours = d2v_tf.load_task(tmp_path, verbose=False)
    for attribute, value in expected.items():
        assert getattr(ours, attribute) == value
    inputs = make_inputs(ours.backbone)
    assert_close(np.asarray(ours(inputs)), their_logits(theirs, inputs))


@pytest.mark.parametrize("name", TASKS)
def test_ours_is_theirs_and_ours_again(name, tmp_path):
    architecture, fields, _ = TASKS[name]
    theirs = perturbed(getattr(transformers, architecture)(config_for(architecture, fields)))
    save(theirs, tmp_path / "theirs")
    ours = d2v_tf.load_task(tmp_path / "theirs", verbose=False)
    d2v_tf.save_huggingface(ours, tmp_path / "ours")
    model_class = getattr(transformers, architecture)
    back, info = model_class.from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(info.values()), info
    if name == "ctc":
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
        assert tokenizer.decode([4, 5, 0, 5, 5, 6, 4, 0]) == "EE'"
    else:
        kinds = (theirs.config.problem_type, "single_label_classification")
        assert back.config.id2label == theirs.config.id2label and back.config.problem_type in kinds
    inputs = make_inputs(ours.backbone)
    assert_close(np.asarray(ours(inputs)), their_logits(back.eval(), inputs))
    again = d2v_tf.load_task(tmp_path / "ours", verbose=False)
    for one, two in zip(again.weights, ours.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(two), one.path)


def test_letters_that_are_missing_or_do_not_fit(tmp_path):
    config = config_for("Data2VecAudioForCTC", SPEECH)
    transformers.Data2VecAudioForCTC(config).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="vocab.json is missing"):
        d2v_tf.load_task(tmp_path)
    for content in ('{"<pad>": 0, "a": 1}', '{"<pad>": 0, "a": null}'):
        (tmp_path / "vocab.json").write_text(content)
        with pytest.raises(WeightsError, match="has not the numbers from 0 to 6"):
            d2v_tf.load_task(tmp_path)
    numbers = {entry: i for i, entry in enumerate(VOCABULARY)}
    (tmp_path / "vocab.json").write_text(json.dumps(numbers))
    (tmp_path / "tokenizer_config.json").write_text('{"word_delimiter_token": " "}')
    with pytest.raises(WeightsError, match="word_delimiter_token is ' '; only '|' is supported"):
        d2v_tf.load_task(tmp_path)


@pytest.mark.parametrize("ratios", [(0.0, 0.25), (0.2, 0.0), (0.0, 0.0)])
def test_masks_and_letters_of_a_ctc_model_come_back(ratios, tmp_path):
    vocabulary = ("[PAD]", "|", "A", "B")
    task = d2v_tf.Data2VecSpeechCTC(
        make_backbone("speech"), vocabulary, time_mask_ratio=ratios[0], channel_mask_ratio=ratios[1]
    )
    d2v_tf.save_huggingface(task, tmp_path)
    back = d2v_tf.load_task(tmp_path, verbose=False)
    assert (back.time_mask_ratio, back.channel_mask_ratio) == ratios
    assert back.vocabulary == vocabulary
    tokenizer = transformers.Wav2Vec2CTCTokenizer.from_pretrained(tmp_path)
    assert tokenizer.pad_token_id == 0
    assert tokenizer.decode([2, 0, 2, 2, 1, 3, 0]) == "AA B"


def test_no_head_to_be_read(tmp_path):
    config = config_for("Data2VecTextFor", TEXT)
    transformers.Data2VecTextForMaskedLM(config).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="'Data2VecTextForMaskedLM', which has no head"):
        d2v_tf.load_task(tmp_path)


def test_a_preset_without_a_head(tmp_path):
    make_backbone("text").save_to_preset(tmp_path)
    with pytest.raises(WeightsError, match="holds a backbone without a head"):
        d2v_tf.load_task(tmp_path)


def test_a_preset_whose_head_is_gone_or_not_asked_for(tmp_path, capsys):
    d2v_tf.Data2VecTextClassifier(make_backbone("text"), 2).save_to_preset(str(tmp_path))
    d2v_tf.load_backbone(tmp_path)
    assert "without the head that stands beside it" in capsys.readouterr().out
    (tmp_path / "task.weights.h5").unlink()
    with pytest.raises(WeightsError, match="task.weights.h5 is missing, which holds the head's"):
        d2v_tf.load_task(tmp_path)


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("audio", "use_weighted_layer_sum", True, "use_weighted_layer_sum is True"),
        ("image, mean", "problem_type", "multi_label_classification", "only 'single_label_cl"),
        ("text", "problem_type", "regression", "problem_type is 'regression' with 3 labels"),
        ("text", "id2label", {"x": "cat"}, "id2label is"),
        ("text", "id2label", {"0": "cat", "1": "cat", "2": "dog"}, "3 different names"),
        ("text", "id2label", {"0": "cat", "1": "dog"}, "out_proj.weight is .3, 12., not .2, 12."),
    ],
)
def test_fields_that_are_refused(name, field, value, message, tmp_path):
    architecture, fields, _ = TASKS[name]
    theirs = getattr(transformers, architecture)(config_for(architecture, fields))
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(WeightsError, match=message):
        d2v_tf.load_task(tmp_path)


@pytest.mark.parametrize(
    ("name", "task_class", "arguments", "message"),
    [
        ("vision_per_block", d2v_tf.Data2VecImageClassifier, {}, "pooling='mean' with a final"),
        ("speech", d2v_tf.Data2VecAudioClassifier, {}, "projection_dim=None"),
        ("text", d2v_tf.Data2VecTextClassifier, {"pooling": "mean"}, "is on the first token"),
    ],
)
def test_heads_that_they_do_not_have(name, task_class, arguments, message, tmp_path):
    task = task_class(make_backbone(name), num_classes=3, **arguments)
    with pytest.raises(WeightsError, match=message):
        d2v_tf.save_huggingface(task, tmp_path)
