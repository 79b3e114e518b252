"""Loss and gradient of a step against the whole rule, written in PyTorch on Hugging Face's models.

The student is a Hugging Face model; the teacher is a copy with other weights in its blocks alone.
Its targets are collected by hooks, as the paper has them (arXiv 2202.03555, 3.3 and 3.4): the
feed-forward outputs before the last residual connection, each normalized, averaged.
"""

import copy
import dataclasses
from collections.abc import Callable

import keras
import numpy as np
import pytest

import d2v_tf
from d2v_tf.interop.huggingface_config import HuggingFaceModel
from d2v_tf.interop.huggingface_speech import SPEECH
from d2v_tf.interop.huggingface_text import TEXT
from d2v_tf.interop.huggingface_vision import VISION
from d2v_tf.interop.key_map import expand
from tests.parity import test_speech, test_text, test_vision
from tests.parity.models import torch

EPSILON = 1e-5  # of a normalization, PyTorch's default


@dataclasses.dataclass
class Case:
    """One modality.

    Attributes:
        model: which variable of ours is which of theirs.
        theirs, ours: a Hugging Face model, and our backbone with its weights.
        rule: dict of the arguments of `d2v_tf.Data2Vec`.
        batch: what ours is trained on.
        lengths: how many positions of each example are real.
        run: (their model, whether masked) -> their outputs, with all hidden states.
        blocks: their model -> its blocks.
        feed_forward: block -> the module whose output is the feed-forward output.
        prefix: int. Positions of theirs before the first of the mask.
    """

    model: HuggingFaceModel
    theirs: torch.nn.Module
    ours: d2v_tf.Data2VecVisionBackbone
    rule: dict
    batch: dict
    lengths: list
    run: Callable
    blocks: Callable
    feed_forward: Callable
    prefix: int = 0


def vision(rule, **config):
    theirs, ours = test_vision.make_pair(drop_path_rate=0.0, **config)
    images = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype("float32")
    mask = np.zeros((2, 9), bool)
    mask[0, [0, 1, 4, 5, 7]] = mask[1, [2, 3, 8]] = True

    def run(model, masked):
        pixels = torch.tensor(images.transpose(0, 3, 1, 2))
        hidden = torch.tensor(mask) if masked else None
        return model(pixels, bool_masked_pos=hidden, output_hidden_states=True)

    return Case(
        model=VISION,
        theirs=theirs,
        ours=ours,
        rule={"target_norm": "layer", "normalize_average": True, "loss_beta": 0.5, **rule},
        batch={"images": images, "mask": mask},
        lengths=[9, 9],
        run=run,
        blocks=lambda model: model.encoder.layer,
        feed_forward=lambda block: block.output,  # before layer scale
        prefix=1,
    )


def speech(rule, **config):
    no_dropout = dict.fromkeys(
        "hidden_dropout attention_dropout activation_dropout feat_proj_dropout layerdrop".split(),
        0.0,
    )
    theirs, ours = test_speech.make_pair("reference", **no_dropout, **config)
    waveform, padding_mask, _ = test_speech.make_inputs(ours, (23, 14))
    mask = np.zeros((2, 23), bool)
    mask[0, 3:12] = mask[1, 0:3] = mask[1, 9:14] = True  # up to the first example's padding

    def run(model, masked):
        return model(
            torch.tensor(waveform),
            attention_mask=torch.tensor(padding_mask).long(),
            mask_time_indices=torch.tensor(mask) if masked else None,
            output_hidden_states=True,
        )

    return Case(
        model=SPEECH,
        theirs=theirs,
        ours=ours,
        rule={"target_norm": "instance", "loss_beta": 0.0, **rule},
        batch={"waveform": waveform, "padding_mask": padding_mask.astype("int32"), "mask": mask},
        lengths=[23, 14],
        run=run,
        blocks=lambda model: model.encoder.layers,
        feed_forward=lambda block: block.feed_forward,
    )


def text(rule, **config):
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    theirs, ours = test_text.make_pair(**no_dropout, **config)
    target_tokens = test_text.TOKENS[:2]
    real = target_tokens != 1
    mask = np.zeros(real.shape, bool)
    mask[0, [1, 2, 3, 4, 8]] = mask[1, [2, 3]] = True
    tokens = np.where(mask, 29, target_tokens)  # `<mask>`
    tokens[0, 8] = target_tokens[0, 8]  # one stays as it is, and is predicted all the same

    def run(model, masked):
        return model(
            torch.tensor(tokens if masked else target_tokens),
            attention_mask=torch.tensor(real).long(),
            output_hidden_states=True,
        )

    return Case(
        model=TEXT,
        theirs=theirs,
        ours=ours,
        rule={
            "target_norm": "layer",
            "loss_beta": 4.0,
            "loss_scale": 1.0,
            "head_layers": 2,
            **rule,
        },
        batch={
            "token_ids": tokens,
            "target_token_ids": target_tokens,
            "padding_mask": real.astype("int32"),
            "mask": mask,
        },
        lengths=list(real.sum(axis=1)),
        run=run,
        blocks=lambda model: model.encoder.layer,
        feed_forward=lambda block: block.output.dense,
    )


# Name: (maker, rule, configuration of theirs).
CASES = {
    "vision_per_block_bias": (vision, {}, {"use_relative_position_bias": True}),
    "vision_shared_bias_no_final_norm": (
        vision,
        {"target_norm": None, "loss_beta": 0.0},  # the average alone is normalized
        {"use_shared_relative_position_bias": True, "use_mean_pooling": True},
    ),
    "vision_blocks": (
        vision,
        {"target_features": "block", "num_target_layers": 3},
        {"use_relative_position_bias": True, "use_absolute_position_embeddings": True},
    ),
    "speech": (speech, {}, {}),
    "speech_blocks_smooth": (speech, {"target_features": "block", "loss_beta": 0.5}, {}),
    "text": (text, {}, {}),
    "text_two_segments": (text, {"head_layers": 1, "num_target_layers": 1}, {"type_vocab_size": 2}),
}


def make_case(name):
    make, rule, config = CASES[name]
    return make({"num_target_layers": 2, **rule}, **config)


def entries_of(case):
    """Which variable of our backbone is which of their tensors, and the layouts' sizes."""
    config = case.theirs.config.to_dict()
    return expand(case.model.keys, case.ours), case.model.sizes(config)


def make_teacher(case):
    """A copy of theirs with other weights in what has an average: the blocks."""
    teacher = copy.deepcopy(case.theirs)
    weights = dict(teacher.named_parameters())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for entry in entries_of(case)[0]:
            if entry.ours.startswith("encoder."):
                for key in entry.theirs:
                    noise = torch.randn(weights[key].shape, generator=generator)
                    weights[key] += 0.1 * noise
    return teacher


def make_head(case):
    dim, layers = case.ours.hidden_dim, case.rule.get("head_layers", 1)
    torch.manual_seed(2)
    if layers == 1:
        return torch.nn.Sequential(torch.nn.Linear(dim, dim))
    return torch.nn.Sequential(
        torch.nn.Linear(dim, 2 * dim), torch.nn.GELU(), torch.nn.Linear(2 * dim, dim)
    )


def layer_norm(x):
    return torch.nn.functional.layer_norm(x, x.shape[-1:], eps=EPSILON)


def instance_norm(x, lengths):
    """Over the real positions of each example and channel; what stands elsewhere is nothing."""
    rows = torch.zeros_like(x)
    for row, length in enumerate(lengths):
        real = x[row : row + 1, :length].transpose(1, 2)  # [1, D, n]
        rows[row, :length] = torch.nn.functional.instance_norm(real, eps=EPSILON)[0].T
    return rows


def reference_targets(case, teacher, rule):
    collected = []
    for block in case.blocks(teacher):
        module = case.feed_forward(block)
        module.register_forward_hook(lambda module, args, output: collected.append(output))
    with torch.no_grad():
        outputs = case.run(teacher, masked=False)
    if rule.get("target_features") == "block":
        collected = list(outputs.hidden_states[1:])  # the first are the embeddings
    total = 0.0
    for features in collected[-rule["num_target_layers"] :]:
        features = features[:, case.prefix :]
        if rule["target_norm"] == "layer":
            features = layer_norm(features)
        elif rule["target_norm"] == "instance":
            features = instance_norm(features, case.lengths)
        total = total + features
    average = total / rule["num_target_layers"]
    return layer_norm(average) if rule.get("normalize_average") else average


def reference_loss(case, teacher, head, **changes):
    """The loss; `backward` gives the gradients of `case.theirs` and `head`."""
    rule = {**case.rule, **changes}
    mask = torch.tensor(case.batch["mask"])
    targets = reference_targets(case, copy.deepcopy(teacher), rule)[mask]  # [M, D]
    hidden = case.run(case.theirs, masked=True).last_hidden_state[:, case.prefix :]
    predictions = head(hidden)[mask]
    error, beta = predictions - targets, rule["loss_beta"]
    if beta:
        size = error.abs()
        losses = torch.where(size < beta, 0.5 * error**2 / beta, size - 0.5 * beta)
    else:
        losses = error**2
    scale = rule.get("loss_scale") or error.shape[-1] ** -0.5
    return scale * losses.sum(dim=-1).mean()


class Recorder(keras.optimizers.SGD):
    """Keeps the gradients and changes nothing."""

    def apply(self, gradients, variables):
        self.gradients = {id(v): np.asarray(g) for g, v in zip(gradients, variables, strict=True)}


def make_ours(case, teacher, head):
    """`d2v_tf.Data2Vec` with all of their weights."""
    model = d2v_tf.Data2Vec(case.ours, **case.rule)
    entries, sizes = entries_of(case)
    averaged = zip(case.ours.encoder.weights, model.teacher.weights, strict=True)
    teacher_of = {id(student): weight for student, weight in averaged}
    weights = {key: weight.detach().numpy() for key, weight in teacher.named_parameters()}
    for entry in entries:
        weight = teacher_of.pop(id(entry.variable), None)
        if weight is not None:
            weight.assign(entry.layout.to_ours(sizes, *(weights[key] for key in entry.theirs)))
    assert not teacher_of
    linear = [layer for layer in head if isinstance(layer, torch.nn.Linear)]
    for layer, theirs in zip(model.head.layers, linear, strict=True):
        layer.set_weights([theirs.weight.detach().numpy().T, theirs.bias.detach().numpy()])
    model.compile(Recorder())
    return model


@pytest.mark.parametrize("name", CASES)
def test_loss_and_every_gradient_equal_the_rule_in_pytorch(name):
    case = make_case(name)
    teacher, head = make_teacher(case), make_head(case)
    model = make_ours(case, teacher, head)
    loss = reference_loss(case, teacher, head)
    loss.backward()
    logs = model.train_step(case.batch)
    np.testing.assert_allclose(float(logs["loss"]), loss.item(), rtol=1e-4)

    expected = {}  # name of ours: (gradient of ours, gradient of theirs)
    got = model.optimizer.gradients
    gradients = {key: weight.grad for key, weight in case.theirs.named_parameters()}
    entries, sizes = entries_of(case)
    for entry in entries:
        tensors = [gradients[key].numpy() for key in entry.theirs]
        if entry.ours == "positions.position_embedding" and case.model is TEXT:
            # Theirs adds a segment's row to each of ours: a sum, of which ours has no variable.
            rows = got[id(entry.variable)].sum(axis=0)
            np.testing.assert_allclose(rows, tensors[1][0], atol=1e-3 * np.abs(rows).max())
            tensors[1] = np.zeros_like(tensors[1])
        expected[entry.ours] = got.pop(id(entry.variable)), entry.layout.to_ours(sizes, *tensors)
    linear = [layer for layer in head if isinstance(layer, torch.nn.Linear)]
    for i, (layer, theirs) in enumerate(zip(model.head.layers, linear, strict=True)):
        expected[f"head.{i}.kernel"] = got.pop(id(layer.kernel)), theirs.weight.grad.numpy().T
        expected[f"head.{i}.bias"] = got.pop(id(layer.bias)), theirs.bias.grad.numpy()
    assert not got  # every variable that is trained was compared

    largest = max(np.abs(theirs).max() for _, theirs in expected.values())
    for ours_name, (ours, theirs) in expected.items():
        assert ours.shape == theirs.shape, ours_name
        # Softmax ignores the keys' biases: their gradients are 0 but for rounding.
        close = 1e-3 * np.abs(theirs).max() + 1e-6 * largest
        assert np.abs(ours - theirs).max() <= close, ours_name
        if not ours_name.endswith("key_bias_weight"):
            assert np.abs(theirs).max() > 1e-5 * largest, ours_name  # there is something to see


@pytest.mark.parametrize("name", ["vision_per_block_bias", "speech", "text"])
def test_each_part_of_the_rule_is_seen(name):
    """A reference that lacks one of them has another loss, ten times as far as is allowed."""
    case = make_case(name)
    teacher, head = make_teacher(case), make_head(case)
    loss = reference_loss(case, teacher, head).item()
    changed = {
        "norm": reference_loss(case, teacher, head, target_norm=None),
        "average": reference_loss(
            case, teacher, head, normalize_average=not case.rule.get("normalize_average")
        ),
        "features": reference_loss(case, teacher, head, target_features="block"),
        "layers": reference_loss(case, teacher, head, num_target_layers=1),
        "beta": reference_loss(case, teacher, head, loss_beta=1.0),
        "teacher": reference_loss(case, case.theirs, head),
    }
    for part, other in changed.items():
        assert abs(other.item() - loss) > 1e-3 * loss, part
    padded = np.array(case.lengths) < case.batch["mask"].shape[1]
    if padded.any() and case.rule["target_norm"] == "instance":
        whole = dataclasses.replace(case, lengths=[case.batch["mask"].shape[1]] * len(padded))
        other = reference_loss(whole, teacher, head).item()
        assert abs(other - loss) > 1e-3 * loss  # padding in the statistics
