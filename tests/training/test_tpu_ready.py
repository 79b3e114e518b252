"""The whole step of every modality as a TPU has it: compiled, with static shapes, traced once."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from d2v_tf.config import load_recipe
from d2v_tf.training.modalities import modality_of
from d2v_tf.training.model import build_model
from tests.data.audio import write_tree

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "pretrain"
SMALL = [
    "precision=float32",
    "xla=true",
    "model.num_layers=1",
    "model.hidden_dim=16",
    "model.num_heads=2",
    "model.intermediate_dim=16",
    "data2vec.num_target_layers=1",
    "optimizer.global_clipnorm=1.0",
]
RECIPES = {
    "vision": ["batch_size=4", "model.patch_size=8", "mask.min_block=2"],
    "speech": [
        "batch_size=2",
        "model.conv_dims=[4, 4, 4, 4, 4, 4, 4]",
        "model.position_conv_layers=1",
        "data.min_seconds=0.1",
        "data.max_seconds=0.5",
        "data.buckets=1",
    ],
    "text": ["batch_size=4", "model.vocabulary_size=300", "model.max_sequence_length=32"],
}
# Ops that TPUs refuse: Python, strings, and outputs whose size depends on values.
REFUSED = ("PyFunc", "String", "Where", "Unique", "DynamicPartition", "AsString", "Print", "Decode")


def graphs_of(graph):
    """A graph and those of its branches, loops and calls."""
    yield graph
    for function in graph._functions.values():
        if getattr(function, "graph", None) is not None:
            yield from graphs_of(function.graph)


# What saves memory and time there, all at once.
FRUGAL = ["precision=bfloat16", "accumulate=2", "remat=true"]


@pytest.mark.parametrize(
    ("modality", "more"),
    [*((modality, []) for modality in RECIPES), ("vision", FRUGAL), ("speech", FRUGAL)],
)
def test_the_step_compiles_with_static_shapes_and_is_traced_once_in_50_steps(
    modality, more, tmp_path
):
    settings = [*SMALL, *RECIPES[modality], *more]
    if modality == "speech":
        write_tree(tmp_path, [0.3 + 0.02 * i for i in range(12)])
        settings.append(f"data.source=folder:{tmp_path}")
    recipe = load_recipe(CONFIGS / f"{modality}_tiny.yaml", settings)
    data = modality_of(recipe).open_data(recipe, warn=print)
    batches = data.batches(0)
    assert all(spec.shape.is_fully_defined() for spec in batches.element_spec.values())
    model = build_model(recipe)
    before = [w.numpy() for w in model.teacher.weights]
    step = tf.function(model.train_step, jit_compile=True)
    losses = [float(step(batch)["loss"]) for batch in batches.take(50)]
    assert len(losses) == 50 and np.isfinite(losses).all() and len(set(losses)) > 40
    assert step.experimental_get_tracing_count() == 1
    assert int(model.optimizer.iterations) == 50
    moved = [not np.array_equal(a, b) for a, b in zip(before, model.teacher.weights, strict=True)]
    assert any(moved)  # forward, backward, optimizer and EMA are all in it
    graph = step.get_concrete_function(next(iter(batches))).graph
    ops = [op for part in graphs_of(graph) for op in part.get_operations()]
    assert len(ops) > 500
    assert not [op.type for op in ops if op.type.startswith(REFUSED) or "PyFunc" in op.type]
    for op in ops:
        if "redundant_placeholder" in op.name:  # what a loop's condition is given and does not read
            continue
        for tensor in op.outputs:
            if tensor.dtype not in (tf.resource, tf.variant):
                assert tensor.dtype != tf.string, op
                # Which axes to sum over in a gradient: XLA computes it while it compiles.
                if op.type != "BroadcastGradientArgs":
                    assert tensor.shape.is_fully_defined(), op
    keras.utils.clear_session()
