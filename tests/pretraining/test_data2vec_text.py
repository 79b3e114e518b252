"""The rule on text: tokens that come masked, and once more unmasked for the teacher."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

from d2v_tf.backbones.text import Data2VecTextBackbone
from d2v_tf.masking import token_mask
from d2v_tf.pretraining.data2vec import Data2Vec
from tests import numpy_reference
from tests.backbones.test_text import numpy_embed
from tests.numpy_reference import randomize

MASK_ID = 10
TOKENS = np.array([[0, 8, 9, 4, 5, 2, 6, 2], [0, 7, 6, 3, 2, 1, 1, 1], [0, 4, 4, 5, 6, 7, 8, 2]])
PADDING_MASK = TOKENS != 1


def make_model(**kwargs):
    backbone = Data2VecTextBackbone(
        vocabulary_size=11,
        max_sequence_length=8,
        num_layers=3,
        hidden_dim=8,
        num_heads=2,
        intermediate_dim=12,
        dropout=kwargs.pop("dropout", 0.0),
        attention_dropout=0.0,
    )
    model = Data2Vec(
        backbone,
        **{
            "num_target_layers": 2,
            "loss_beta": 0.5,
            "loss_scale": 1.0,
            "head_layers": 2,
            "ema": (0.9, 0.99, 10),
            **kwargs,
        },
    )
    randomize(model.weights, 1)
    return model


def make_batch(tokens=TOKENS, seed=0):
    tokens = tf.constant(tokens, tf.int32)
    seeds = tf.constant([[seed, i] for i in range(len(tokens))])
    # All masked tokens become `<mask>`, so that nothing of them is left to see.
    masked, mask = token_mask(
        tokens, seeds, MASK_ID, (0, 1, 2), 11, ratio=0.4, random_part=0.0, keep_part=0.0
    )
    return {
        "token_ids": masked,
        "target_token_ids": tokens,
        "padding_mask": tokens != 1,
        "mask": mask,
    }


def test_a_step_equals_numpy():
    model, batch = make_model(), make_batch()
    mask = batch["mask"].numpy()
    assert 2 < mask.sum() < mask.size / 2
    _, _, ffns = numpy_reference.encode(
        model.teacher, numpy_embed(model.student, TOKENS), PADDING_MASK
    )
    targets = numpy_reference.average_targets(ffns[-2:], "layer", False)
    hidden, _, _ = numpy_reference.encode(
        model.student.encoder, numpy_embed(model.student, batch["token_ids"].numpy()), PADDING_MASK
    )
    predictions = numpy_reference.predict(model, hidden)
    assert_allclose(model.targets(batch).numpy()[PADDING_MASK], targets[PADDING_MASK], atol=1e-3)
    got = model.predictions(batch).numpy()[PADDING_MASK]
    assert_allclose(got, predictions[PADDING_MASK], atol=1e-3)
    model.compile(keras.optimizers.SGD(0.1))
    loss = float(model.train_step(batch)["loss"])
    expected = numpy_reference.masked_loss(predictions, targets, mask, beta=0.5, scale=1.0)
    assert_allclose(loss, expected, rtol=1e-4)


def test_what_the_mask_hides_reaches_the_targets_and_not_the_predictions():
    model, batch = make_model(), make_batch()
    mask = batch["mask"].numpy()
    other = make_batch(np.where(mask, 3 + (TOKENS + 1) % 7, TOKENS))
    assert_array_equal(other["mask"], mask)
    assert_array_equal(other["token_ids"], batch["token_ids"])
    assert (other["target_token_ids"].numpy() != TOKENS)[mask].all()
    assert_array_equal(model.predictions(other), model.predictions(batch))
    difference = np.abs(model.targets(other) - model.targets(batch)).max(axis=-1)
    assert (difference[mask] > 1e-2).all()
    # The teacher's targets are contextual: the others change too.
    assert (difference[PADDING_MASK & ~mask] > 1e-4).all()


def test_all_ways_to_compile_compute_the_same_updates():
    histories, weights = [], []
    for jit_compile, compile_parts in ((False, False), (True, False), (False, True)):
        model = make_model(max_masked=4, compile_parts=compile_parts)
        model.compile(keras.optimizers.AdamW(1e-2), jit_compile=jit_compile)
        batches = tf.data.Dataset.from_tensor_slices(
            tf.nest.map_structure(lambda *x: tf.stack(x), *(make_batch(seed=i) for i in range(4)))
        )
        history = model.fit(batches, epochs=1, verbose=0, shuffle=False).history
        histories.append(history)
        weights.append([v.numpy() for v in model.weights])
    for name in ("loss", "target_var", "pred_var"):
        for history in histories[1:]:
            assert_allclose(history[name], histories[0][name], rtol=1e-3)
    for one, *others in zip(*weights, strict=True):
        for other in others:
            assert_allclose(other, one, atol=5e-3)


def test_only_the_blocks_have_an_ema_copy_and_everything_else_is_trained():
    model, batch = make_model(), make_batch()
    encoder = model.student.encoder
    assert len(model.teacher.weights) == len(encoder.weights)
    before = {v.path: v.numpy() for v in model.weights}
    model.compile(keras.optimizers.SGD(1.0))
    model.train_step(batch)
    for target, source in zip(model.teacher.weights, encoder.weights, strict=True):
        assert_allclose(target, 0.9 * before[target.path] + 0.1 * source.numpy(), atol=1e-5)
    same = {v.path for v in model.trainable_variables if np.array_equal(v, before[v.path])}
    assert all("key_bias" in path for path in same)  # softmax ignores it
    # The gradient of the embedding reaches the tokens that the student saw, and no others: the
    # teacher's input, which has tokens that the mask hides, gives none.
    changed = np.abs(
        model.student.frontend.token_embedding.embeddings
        - before[model.student.frontend.token_embedding.embeddings.path]
    ).max(axis=1)
    seen = np.unique(batch["token_ids"].numpy()[PADDING_MASK])
    assert set(np.flatnonzero(changed)) == set(seen)
    assert set(np.unique(TOKENS)) - set(seen)


@pytest.mark.parametrize("name", ["predictions", "targets"])
def test_what_stands_in_the_padding_changes_nothing(name):
    model, batch = make_model(), make_batch()
    poisoned = {
        **batch,
        "token_ids": tf.where(batch["padding_mask"], batch["token_ids"], 9),
        "target_token_ids": tf.where(batch["padding_mask"], batch["target_token_ids"], 9),
    }
    clean = getattr(model, name)(batch).numpy()[PADDING_MASK]
    assert_allclose(getattr(model, name)(poisoned).numpy()[PADDING_MASK], clean, atol=1e-5)


def test_the_teacher_has_no_dropout_and_the_student_has():
    model, batch = make_model(dropout=0.5), make_batch()
    assert_array_equal(model.targets(batch), model.targets(batch))
    one, other = (model.predictions(batch, training=True).numpy() for _ in range(2))
    assert np.abs(one - other)[PADDING_MASK].max() > 1e-2
