"""The comparison with PyTorch: operations counted by PyTorch itself, and the bookkeeping."""

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from d2v_tf.benchmark.compare import as_arrays, compare
from d2v_tf.benchmark.examples import write_examples
from d2v_tf.benchmark.flops import matrix_rate, step_flops
from d2v_tf.benchmark.peer import PeerStep
from d2v_tf.config import load_recipe
from d2v_tf.training.modalities import modality_of

SMALL = [
    "batch_size=2",
    "model.num_layers=2",
    "model.hidden_dim=32",
    "model.num_heads=2",
    "model.intermediate_dim=48",
    "data2vec.num_target_layers=2",
]
MODALITIES = {
    "vision": [],
    "speech": [
        "data.max_seconds=1.0",
        "data.buckets=1",
        "model.conv_dims=[8, 8, 8, 8, 8, 8, 8]",
        # PyTorch counts a grouped convolution's gradient as if it had no groups.
        "model.position_conv_groups=1",
    ],
    "text": ["model.vocabulary_size=500", "model.position_initializer=normal"],
}


def open_recipe(modality, folder):
    settings = [*SMALL, *MODALITIES[modality]]
    path = f"configs/pretrain/{modality}_tiny.yaml"
    source = write_examples(load_recipe(path, settings, modality), str(folder))
    return load_recipe(path, [*settings, f"data.source={source}"], modality)


@pytest.mark.parametrize("modality", MODALITIES)
def test_operations_are_those_that_pytorch_counts(modality, tmp_path):
    recipe = open_recipe(modality, tmp_path)
    backbone = modality_of(recipe).backbone(**recipe.model.model_dump())
    batch = as_arrays(next(iter(modality_of(recipe).open_data(recipe, warn=print).batches(0))))
    rows, length = batch["mask"].shape
    masked = length // 2
    batch["mask"] = np.arange(length) < np.full((rows, 1), masked)
    step = PeerStep(recipe, backbone, batch, "float32 eager")
    weights = sum(parameter.numel() for parameter in step.student.parameters())
    # Their table of text positions has two rows that no token gets.
    assert weights == backbone.count_params() + (2 * 32 if modality == "text" else 0)
    before = [parameter.detach().clone() for parameter in step.parameters]
    # The fused kernel of attention is not counted.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss = step()
    assert np.isfinite(loss)
    assert any(not torch.equal(a, b) for a, b in zip(before, step.parameters, strict=True))
    expected = step_flops(recipe, backbone, (rows, length), masked, whole_last=True)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)


def test_fewer_predictions_take_less():
    recipe = load_recipe("configs/pretrain/text_tiny.yaml", SMALL, "text")
    backbone = modality_of(recipe).backbone(**recipe.model.model_dump())
    some, all_ = (step_flops(recipe, backbone, (2, 64), masked) for masked in (10, 64))
    # The last feed-forward network, of the student three times; the head, three times.
    assert all_ - some == 2 * (64 - 10) * (4 * 4 * 32 * 48 + 3 * 8 * 32**2)


def test_settings_of_both_take_turns_and_the_best_are_compared(tmp_path):
    recipe = open_recipe("vision", tmp_path)
    result = compare(recipe, steps=1, precisions=["float32"], compilers=[False])
    ours, theirs = result["settings"]
    assert (ours["side"], theirs["side"]) == ("ours", "torch")
    ratio = theirs["step"]["median"] / ours["step"]["median"]
    assert result["ratio"]["best against best"] == result["ratio"]["float32"] == ratio
    assert ours["flops_per_second"] == result["flops"]["ours"] / ours["step"]["median"]
    assert ours["peak_memory"] > 0 and theirs["peak_memory"] > 0


def test_the_matrix_rate_is_a_rate():
    assert 1e8 < matrix_rate("float32", size=256, repeats=1) < 1e14
