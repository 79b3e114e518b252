"""Rates by layer against PyTorch's AdamW with parameter groups."""

import keras
import numpy as np
import pytest

import d2v_tf
from d2v_tf.finetuning.optimizer import LayerwiseAdamW, lr_scales
from tests.interop.tiny import make_backbone

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")

SCALES = (1.0, 0.5, 0.1)


def test_equal_to_adamw_with_parameter_groups():
    rng = np.random.default_rng(0)
    start = [rng.normal(size=(3, 4)).astype("float32") for _ in SCALES]
    gradients = [[rng.normal(size=(3, 4)).astype("float32") for _ in SCALES] for _ in range(5)]
    ours = [keras.Variable(value, name=f"v{i}") for i, value in enumerate(start)]
    optimizer = LayerwiseAdamW(
        0.01,
        lr_scales={v.path: scale for v, scale in zip(ours, SCALES, strict=True)},
        weight_decay=0.1,
        undecayed=[ours[2].path],
        beta_2=0.98,
        epsilon=1e-8,
    )
    theirs = [torch.nn.Parameter(torch.tensor(value)) for value in start]
    groups = [
        {"params": [p], "lr": 0.01 * scale, "weight_decay": 0.0 if i == 2 else 0.1}
        for i, (p, scale) in enumerate(zip(theirs, SCALES, strict=True))
    ]
    reference = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-8)
    for step in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in step], ours)
        for parameter, gradient in zip(theirs, step, strict=True):
            parameter.grad = torch.tensor(gradient)
        reference.step()
    for one, two in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(np.asarray(one), two.detach().numpy(), atol=2e-6)
    moved = [np.abs(np.asarray(v) - s).mean() for v, s in zip(ours, start, strict=True)]
    assert moved[0] > 1.5 * moved[1] > 4 * moved[2]


def test_it_is_what_it_was_after_it_is_saved():
    optimizer = LayerwiseAdamW(
        0.01, lr_scales={"a/kernel": 0.5}, weight_decay=0.1, undecayed=["a/bias"], epsilon=1e-6
    )
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is LayerwiseAdamW
    assert again.get_config() == optimizer.get_config()


@pytest.mark.parametrize("name", ["vision_per_block", "vision_shared_absolute_gray"])
def test_scales_fall_from_the_head_to_the_frontend(name):
    backbone = make_backbone(name)
    task = d2v_tf.Data2VecImageClassifier(backbone, num_classes=3)
    scales = lr_scales(task, layer_decay=0.5, backbone_scale=0.1)

    def of(layer):
        found = {scales[v.path] for v in layer.variables}
        assert len(found) == 1
        return found.pop()

    assert of(task.output_dense) == of(task.pooled_norm) == 1.0
    # Two blocks: 0.1 x 0.5^1 for the last, 0.1 x 0.5^2 for the first, 0.1 x 0.5^3 before them.
    assert of(backbone.encoder.blocks[1]) == pytest.approx(0.05)
    assert of(backbone.encoder.blocks[0]) == pytest.approx(0.025)
    for layer in (backbone.frontend, backbone.positions, backbone.mask_token):
        assert of(layer) == pytest.approx(0.0125)
    on_top = backbone.final_norm or backbone.encoder.shared_bias
    assert of(on_top) == pytest.approx(0.1)
    assert set(scales) == {v.path for v in task.variables}
