"""The three mistakes that kept arxyzan/data2vec-pytorch from ever learning."""

import keras
import numpy as np
import tensorflow as tf
from numpy.testing import assert_allclose

from tests import numpy_reference
from tests.pretraining.tiny import MASK, step, vision_batch, vision_model


def test_the_teacher_sees_the_unmasked_input():
    model, batch = vision_model(), vision_batch()
    target_var = step(model, batch, keras.optimizers.SGD(0.0))["target_var"]
    # Were the teacher masked, its targets would depend on the learned mask token.
    again = vision_model()
    again.student.mask_token.embedding.assign(tf.fill([8], 50.0))
    assert_allclose(step(again, batch)["target_var"], target_var, rtol=1e-6)
    unmasked = numpy_reference.vision_targets(vision_model(), batch["images"].numpy())
    assert_allclose(target_var, numpy_reference.deviation(unmasked[MASK]), rtol=1e-3)


def test_instance_norm_is_over_time():
    model = vision_model(target_norm="instance", normalize_average=True)
    targets = np.asarray(model.targets(vision_batch()))  # [B, T, D]
    assert_allclose(targets.mean(axis=1), 0, atol=1e-4)
    assert_allclose(targets.std(axis=1), 1, atol=1e-2)
    assert np.abs(targets.mean(axis=2)).max() > 0.05


def test_the_last_block_is_a_target():
    batch = vision_batch()
    for target_features in ("ffn", "block"):
        model = vision_model(num_target_layers=1, target_features=target_features)
        before = np.asarray(model.targets(batch))
        last = model.teacher.blocks[-1].output_dense.kernel
        last.assign(tf.random.normal(last.shape))
        assert np.abs(model.targets(batch) - before).max() > 1e-2


def test_only_the_last_blocks_are_targets():
    """The other end of the list: with K = 2 of 3, the first block's own output is none."""
    model, batch = vision_model(num_target_layers=2), vision_batch()
    first, second, third = numpy_reference.encode(
        model.teacher, numpy_reference.vision_embed(model.student, batch["images"].numpy())
    )[2]
    for blocks, same in [((second, third), True), ((first, second), False)]:
        expected = numpy_reference.average_targets([x[:, 1:] for x in blocks], "layer", True)
        assert np.allclose(model.targets(batch), expected, atol=1e-3) is same
