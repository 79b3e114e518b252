"""Every replica gets an equal part of every batch, or the run says why not."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from d2v_tf.config import load_recipe
from d2v_tf.data.reading import DataError
from d2v_tf.training.modalities import modality_of

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "pretrain"
SMALL = {
    "vision": ["batch_size=8", "mask.min_block=4"],
    "text": ["batch_size=8", "model.vocabulary_size=300", "model.max_sequence_length=32"],
}


def open_data(modality, *overrides):
    recipe = load_recipe(CONFIGS / f"{modality}_tiny.yaml", [*SMALL[modality], *overrides])
    return modality_of(recipe).open_data(recipe, warn=print)


@pytest.mark.parametrize("modality", SMALL)
def test_workers_share_every_batch_and_no_example_comes_twice(modality):
    """Of the first to the last update of an epoch, from any update on."""
    data = open_data(modality)
    start = 3
    whole = list(data.batches(start).take(2).as_numpy_iterator())
    for num_workers in (2, 4):
        parts = [
            list(data.batches(start, num_workers, worker).take(2).as_numpy_iterator())
            for worker in range(num_workers)
        ]
        for number, batch in enumerate(whole):
            for name, rows in batch.items():
                for worker in range(num_workers):
                    np.testing.assert_array_equal(
                        parts[worker][number][name], rows[worker::num_workers]
                    )


@pytest.mark.parametrize("modality", SMALL)
def test_other_examples_have_another_fingerprint(modality):
    """Rows of text have numbers for names."""
    data = open_data(modality)
    found = data.fingerprint
    assert found == open_data(modality).fingerprint
    data.source = dataclasses.replace(data.source, names=data.source.names[1:])
    assert data.fingerprint != found


def test_a_batch_that_cannot_be_shared_is_refused():
    data = open_data("vision", "accumulate=2")
    data.check_parts(1)
    data.check_parts(4)
    with pytest.raises(DataError) as caught:
        data.check_parts(3)
    assert str(caught.value) == (
        "data: a batch of 8 examples cannot be shared equally by 3 replicas, each in 2 parts "
        "(accumulate). Use as many replicas as divide it (CUDA_VISIBLE_DEVICES=0,1 makes two GPUs "
        "all that there are), or another batch_size."
    )
