"""The callback that trains the head first, in a fit as a notebook has it."""

import keras
import numpy as np
import pytest

import d2v_tf
from d2v_tf.finetuning.freezing import FreezeBackbone
from tests.interop.tiny import make_backbone


@pytest.fixture
def classifier():
    keras.utils.set_random_seed(0)
    task = d2v_tf.Data2VecImageClassifier(make_backbone("vision_per_block"), num_classes=3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    task.compile("adam", loss, jit_compile=False)
    return task


@pytest.fixture
def data(classifier):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(12, *classifier.backbone.image_shape)).astype("float32")
    return {
        "x": images,
        "y": rng.integers(0, 3, 12),
        "batch_size": 2,
        "shuffle": False,
        "verbose": 0,
    }


class Watch(keras.callbacks.Callback):
    """Notes whether an update moved the head, and whether the backbone."""

    def on_train_begin(self, logs=None):
        self.moved = []

    def on_train_batch_begin(self, batch, logs=None):
        self.before = self.weights()

    def on_train_batch_end(self, batch, logs=None):
        pairs = zip(self.before, self.weights(), strict=True)
        self.moved.append(tuple(not np.array_equal(*pair) for pair in pairs))

    def weights(self):
        block = self.model.backbone.encoder.blocks[0]
        weights = self.model.output_dense.kernel, block.weights[0]
        return [keras.ops.convert_to_numpy(weight).copy() for weight in weights]


HEAD, ALL = (True, False), (True, True)


def test_the_backbone_is_trained_once_it_is_thawed(classifier, data):
    watch = Watch()
    classifier.fit(**data, epochs=2, callbacks=[FreezeBackbone(8), watch])
    assert watch.moved == [HEAD] * 8 + [ALL] * 4


def test_updates_are_counted_over_fits_and_a_frozen_layer_stays_frozen(classifier, data):
    classifier.backbone.encoder.blocks[0].trainable = False
    freeze, watch = FreezeBackbone(8, start=1), Watch()
    classifier.fit(**data, callbacks=[freeze, watch])
    assert watch.moved == [HEAD] * 6
    names = [v.path for v in classifier.backbone.trainable_variables]
    assert names and not any("block_0" in name for name in names)  # thawed at the end of a fit
    classifier.fit(**data, callbacks=[freeze, watch])
    assert watch.moved == [HEAD] * 6  # of which the last five are of the other block
    assert freeze.step == 13


def test_a_fit_that_was_interrupted_leaves_nothing_frozen_for_the_next(classifier, data):
    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    freeze, watch = FreezeBackbone(3), Watch()
    with pytest.raises(KeyboardInterrupt):
        classifier.fit(**data, callbacks=[freeze, Interrupt()])
    classifier.fit(**data, callbacks=[freeze, watch])
    assert watch.moved == [HEAD] * 2 + [ALL] * 4
