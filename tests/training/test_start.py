"""What a run takes from the weights that it starts from, and what it refuses."""

import copy
import math
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import d2v_tf
from d2v_tf.config import load_recipe
from d2v_tf.interop.key_map import WeightsError
from d2v_tf.interop.loading import load_backbone
from d2v_tf.training.checkpoints import Checkpoints
from d2v_tf.training.model import build_model
from d2v_tf.training.start import StartError, start_from
from tests.interop import published
from tests.interop.published import linear, torch, write
from tests.numpy_reference import randomize

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "pretrain"
COMMON = [
    "model.num_layers=2",
    "model.hidden_dim=12",
    "model.num_heads=3",
    "model.intermediate_dim=20",
    "data2vec.num_target_layers=2",
    "precision=float32",
    "xla=false",
]
MODEL = {
    "speech": [
        "model.conv_dims=[6, 7, 8]",
        "model.conv_kernel_sizes=[10, 3, 2]",
        "model.conv_strides=[5, 2, 2]",
        "model.position_conv_layers=3",
        "model.position_conv_kernel_size=5",
        "model.position_conv_groups=4",
        "model.padding=reference",
    ],
    "text": ["model.vocabulary_size=270", "model.max_sequence_length=10"],
    "vision": [
        "model.image_shape=[12, 12, 3]",
        "model.patch_size=4",
        "model.relative_position_bias=shared",
        "model.absolute_position=false",
        "mask.min_block=2",
    ],
}


def recipe_for(modality, init, *changes):
    settings = [*COMMON, *MODEL[modality], f"init={init}", *changes]
    return load_recipe(CONFIGS / f"{modality}_tiny.yaml", settings)


def start(recipe):
    model = build_model(recipe)
    return model, start_from(model, recipe)


def assert_same_weights(got, expected):
    assert len(got.weights) == len(expected.weights) > 0
    for one, two in zip(got.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(two), one.path)


def with_other_blocks(model, layers):
    """A teacher: the same model with other numbers in its blocks."""
    teacher = copy.deepcopy(model)
    with torch.no_grad():
        for i, weight in enumerate(layers(teacher).parameters()):
            weight += 0.1 * math.cos(i)
    return teacher


def feed_forward_outputs(modules, call):
    """What these modules of PyTorch return in a call."""
    outputs = []
    hooks = [m.register_forward_hook(lambda _, __, output: outputs.append(output)) for m in modules]
    with torch.no_grad():
        call()
    for hook in hooks:
        hook.remove()
    return outputs


def first_loss(model, batch):
    return float(model.train_step({name: tf.constant(x) for name, x in batch.items()})["loss"])


def test_speech_goes_on_with_the_teacher_and_the_head_of_a_file(tmp_path):
    """The first loss is that of the same three in PyTorch."""
    student = published.speech_model()
    teacher = with_other_blocks(student, lambda model: model.encoder.layers)
    state = published.speech_state(student, teacher)
    ((kernel, bias),) = linear(12, 12)
    state["final_proj.weight"], state["final_proj.bias"] = kernel, bias
    write(tmp_path / "audio.pt", state, "omegaconf", published.SPEECH_FIELDS)
    model, lines = start(recipe_for("speech", tmp_path / "audio.pt"))
    assert_same_weights(model.student, load_backbone(tmp_path / "audio.pt"))
    assert lines[0].startswith(f"{tmp_path}/audio.pt: a fairseq file (data2vec_audio), ")
    assert lines[1] == "the teacher's blocks are from 32 tensors of it"
    assert lines[2].startswith("shared with the student here, so not read: _ema.layer_norm.bias, ")
    assert lines[3] == "the regression head is from final_proj.weight, final_proj.bias"

    rng = np.random.default_rng(0)
    waveform = rng.normal(size=(2, 400)).astype("float32")
    frames = model.student.feature_lengths(400)
    mask = rng.random((2, frames)) < 0.5
    source = torch.tensor(waveform)
    blocks = feed_forward_outputs(
        [layer.feed_forward for layer in teacher.encoder.layers], lambda: teacher(source)
    )
    targets = [(x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
               for x in blocks]  # fmt: skip
    targets = sum(targets) / len(targets)
    with torch.no_grad():
        hidden = student(source, mask_time_indices=torch.tensor(mask)).last_hidden_state
    predictions = hidden @ kernel.T + bias
    errors = ((predictions - targets) ** 2).sum(-1) / math.sqrt(12)
    expected = errors[torch.tensor(mask)].mean()
    batch = {"waveform": waveform, "padding_mask": np.ones((2, 400), "int32"), "mask": mask}
    np.testing.assert_allclose(first_loss(model, batch), float(expected), rtol=1e-4)


def test_text_goes_on_with_the_teacher_and_the_head_of_a_file(tmp_path):
    student = published.text_model(vocab_size=270)
    teacher = with_other_blocks(student, lambda model: model.encoder.layer)
    state = published.text_state(student, teacher)
    layers = linear(12, 24, 12)
    for i, (kernel, bias) in zip((0, 2), layers, strict=True):
        state[f"encoder.regression_head.{i}.weight"] = kernel
        state[f"encoder.regression_head.{i}.bias"] = bias
    write(tmp_path / "nlp.pt", state, "dict", published.TEXT_FIELDS)
    model, lines = start(recipe_for("text", tmp_path / "nlp.pt"))
    assert lines[-1].startswith("the regression head is from encoder.regression_head.0.weight, ")

    rng = np.random.default_rng(0)
    token_ids = rng.integers(5, 269, size=(2, 8))
    mask = np.arange(8) == np.array([[3], [5]])  # no more than the recipe has
    masked = np.where(mask, 269, token_ids)
    blocks = feed_forward_outputs(
        [layer.output.dense for layer in teacher.encoder.layer],
        lambda: teacher(torch.tensor(token_ids)),
    )
    targets = sum(torch.nn.functional.layer_norm(x, (12,)) for x in blocks) / 2
    with torch.no_grad():
        hidden = student(torch.tensor(masked)).last_hidden_state
    hidden = torch.nn.functional.gelu(hidden @ layers[0][0].T + layers[0][1])
    predictions = hidden @ layers[1][0].T + layers[1][1]
    errors = torch.nn.functional.smooth_l1_loss(predictions, targets, reduction="none", beta=4.0)
    expected = errors.sum(-1)[torch.tensor(mask)].mean()
    batch = {
        "token_ids": masked.astype("int32"),
        "target_token_ids": token_ids.astype("int32"),
        "padding_mask": np.ones((2, 8), "int32"),
        "mask": mask,
    }
    np.testing.assert_allclose(first_loss(model, batch), float(expected), rtol=1e-4)

    # A recipe with another head trains one anew, and says so.
    fresh = build_model(recipe_for("text", "none", "data2vec.head_layers=1")).head.get_weights()
    model, lines = start(recipe_for("text", tmp_path / "nlp.pt", "data2vec.head_layers=1"))
    assert lines[-1].startswith("the regression head is fresh: encoder.regression_head.0.weight, ")
    assert lines[-1].endswith(" is 12 -> 24 -> 12, this one 12 -> 12")
    for one, two in zip(model.head.get_weights(), fresh, strict=True):
        np.testing.assert_array_equal(one, two)


def test_vision_resizes_the_positions_of_student_and_teacher(tmp_path):
    student = published.vision_model()
    teacher = with_other_blocks(student, lambda model: model.encoder)
    content = {
        "model": published.vision_state(student),
        "model_ema": published.vision_state(teacher),
    }
    torch.save(content, tmp_path / "checkpoint.pth")
    torch.save({"model": content["model_ema"]}, tmp_path / "teacher.pth")
    init = tmp_path / "checkpoint.pth"
    model, lines = start(recipe_for("vision", init, "model.image_shape=[20, 20, 3]"))
    assert lines[1] == "its positions are resized from images of (12, 12) to (20, 20)"
    assert lines[-1] == "the regression head is fresh, as none stands beside it"
    expected = load_backbone(init, image_shape=(20, 20, 3), verbose=False)
    assert_same_weights(model.student, expected)
    expected = load_backbone(tmp_path / "teacher.pth", image_shape=(20, 20, 3), verbose=False)
    assert_same_weights(model.teacher, expected.encoder)


def test_a_run_of_ours_gives_student_and_head_and_the_teacher_is_a_copy(tmp_path):
    """The second half of the paper's ViT-L is started so."""
    first = build_model(recipe_for("vision", "none"))
    randomize(first.weights, seed=3)
    first.student.save_to_preset(str(tmp_path / "run" / "preset"))
    model, lines = start(recipe_for("vision", tmp_path / "run"))
    assert lines[1:] == [
        "the teacher is a copy of the student, as it is when a run begins",
        "the regression head is fresh, as none stands beside it",
    ]
    Checkpoints(str(tmp_path / "run" / "checkpoints"), first).save(7)
    model, lines = start(recipe_for("vision", tmp_path / "run"))
    assert lines[-1] == "the regression head is from its newest checkpoint"
    assert_same_weights(model.student, first.student)
    assert_same_weights(model.teacher, first.student.encoder)
    assert_same_weights(model.head, first.head)
    assert int(model.optimizer.iterations) == 0


def test_a_hugging_face_folder(tmp_path):
    model = build_model(recipe_for("text", "none"))
    randomize(model.weights, seed=3)
    d2v_tf.save_huggingface(model.student, tmp_path)
    other, _ = start(recipe_for("text", tmp_path))
    assert_same_weights(other.student, model.student)


def test_rates_and_first_values_are_the_recipes(tmp_path):
    write(
        tmp_path / "a.pt",
        published.text_state(published.text_model(vocab_size=270)),
        "dict",
        published.TEXT_FIELDS,
    )
    model, _ = start(recipe_for("text", tmp_path / "a.pt", "model.dropout=0.375"))
    assert model.student.dropout == 0.375
    assert model.student.position_initializer == "sinusoidal"


def test_every_argument_that_differs_is_named_with_what_to_set(tmp_path):
    write(
        tmp_path / "a.pt",
        published.speech_state(published.speech_model()),
        "dict",
        published.SPEECH_FIELDS,
    )
    changes = ["model.padding=invariant", "model.num_layers=3", "model.conv_strides=[5, 2, 1]"]
    with pytest.raises(StartError) as caught:
        start(recipe_for("speech", tmp_path / "a.pt", *changes))
    assert str(caught.value) == (
        f"--init={tmp_path}/a.pt is another model than the recipe's: conv_strides is (5, 2, 2) and "
        "(5, 2, 1); num_layers is 2 and 3; padding is 'reference' and 'invariant'. For a model "
        "like it: --set 'model.conv_strides=[5, 2, 2]' --set model.num_layers=2 --set "
        "model.padding=reference."
    )
    with pytest.raises(StartError, match="holds a Data2VecSpeechBackbone and the recipe is for"):
        start(recipe_for("text", tmp_path / "a.pt"))


def test_weights_without_a_final_norm(tmp_path):
    state = published.vision_state(published.vision_model("per_block", use_mean_pooling=True))
    torch.save({"model": state}, tmp_path / "finetuned.pth")
    with pytest.raises(StartError) as caught:
        start(recipe_for("vision", tmp_path / "finetuned.pth"))
    assert str(caught.value).endswith(
        "final_norm is False and True; relative_position_bias is 'per_block' and 'shared'. For a "
        "model like it: --set model.final_norm=false --set model.relative_position_bias=per_block."
    )
    settings = ["model.final_norm=false", "model.relative_position_bias=per_block"]
    model, _ = start(recipe_for("vision", tmp_path / "finetuned.pth", *settings))
    assert model.student.final_norm is None


def test_a_refused_start_leaves_the_model_as_it_was(tmp_path):
    """A teacher that lacks a tensor is no teacher; nothing is half taken over."""
    student = published.speech_model()
    state = published.speech_state(student, student)
    del state["_ema"]["layers.1.fc2.bias"]
    write(tmp_path / "a.pt", state, "dict", published.SPEECH_FIELDS)
    recipe = recipe_for("speech", tmp_path / "a.pt")
    model = build_model(recipe)
    before = [weight.numpy().copy() for weight in model.weights]
    with pytest.raises(WeightsError, match="1 missing: _ema.layers.1.fc2.bias"):
        start_from(model, recipe)
    for one, two in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(np.asarray(one), two)


def test_half_precision_computes_in_it_and_keeps_float32(tmp_path):
    torch.save({"model": published.vision_state(published.vision_model())}, tmp_path / "a.pth")
    model, _ = start(recipe_for("vision", tmp_path / "a.pth", "precision=bfloat16"))
    assert model.student.compute_dtype == "bfloat16"
    assert {keras.backend.standardize_dtype(w.dtype) for w in model.weights} == {"float32"}
