"""Random Hugging Face models, and the same backbones as the package reads them."""

import tempfile

import numpy as np
import pytest

from d2v_tf.interop.huggingface import load_huggingface

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install transformers"
)


def perturbed(model):
    """The model with noise on every weight: no zero or one is left to hide a mistake."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return model.eval()


def backbone_of(model):
    """Our backbone with the model's weights; every tensor must find its place."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        backbone, report = load_huggingface(folder)
    assert not report.missing
    extra = {"embeddings.token_type_embeddings.weight[1:]"} & set(report.unused)
    assert set(report.unused) == extra
    keys = {key for theirs in report.mapped.values() for key in theirs}
    assert keys == set(model.state_dict())
    return backbone


def assert_close(got, expected):
    """Within 1e-4 of the largest number."""
    expected = expected.detach().numpy()
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()
