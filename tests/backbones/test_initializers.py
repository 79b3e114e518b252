"""First values: Keras' own draws, and none where others are assigned anyway."""

import keras
import numpy as np
import pytest

import d2v_tf
from d2v_tf.backbones.initializers import TruncatedNormal, without_drawing
from tests.interop.tiny import TEXT, VISION, assert_same_backbone, make_backbone


def test_the_draws_are_keras_own():
    got = TruncatedNormal(stddev=0.02, seed=3)((40, 50))
    expected = keras.initializers.TruncatedNormal(stddev=0.02, seed=3)((40, 50))
    np.testing.assert_array_equal(got, expected)
    assert np.std(got) > 0.01
    again = keras.initializers.deserialize(keras.initializers.serialize(TruncatedNormal(seed=3)))
    assert type(again) is TruncatedNormal


def test_without_drawing_there_are_zeros_until_its_end():
    initializer = TruncatedNormal(seed=3)
    with pytest.raises(RuntimeError, match="on the way"), without_drawing():
        zeros = initializer((2, 3), "float16")
        assert zeros.dtype == "float16" and not np.any(zeros)
        raise RuntimeError("on the way")
    assert np.all(initializer((2, 3)))


def test_single_tokens_are_drawn_all_the_same():
    """A file need not hold a mask token: a published classifier's does not."""
    with without_drawing():
        vision = d2v_tf.Data2VecVisionBackbone(**VISION)
        text = d2v_tf.Data2VecTextBackbone(**TEXT)
    assert np.all(vision.mask_token.embedding)
    for undrawn in (
        vision.encoder.blocks[0].attention.qkv_kernel,
        vision.encoder.blocks[1].output_dense.kernel,
        text.frontend.token_embedding.embeddings,
    ):
        assert not np.any(undrawn)


def test_what_is_drawn_later_is_the_same_with_and_without():
    """So that a recipe's seed means the same run however its parts were made."""
    later = []
    for drawing in (True, False):
        keras.utils.set_random_seed(0)
        if drawing:
            d2v_tf.Data2VecTextBackbone(**TEXT)
        else:
            with without_drawing():
                d2v_tf.Data2VecTextBackbone(**TEXT)
        later.append(np.asarray(keras.initializers.GlorotUniform()((4, 5))))
    np.testing.assert_array_equal(*later)


@pytest.mark.parametrize("name", ["vision_shared_absolute_gray", "speech", "text"])
def test_loading_draws_nothing_and_reads_everything(name, tmp_path, monkeypatch):
    backbone = make_backbone(name)
    backbone.save_to_preset(str(tmp_path / "preset"))
    d2v_tf.save_huggingface(backbone, tmp_path / "theirs")

    draw = keras.initializers.TruncatedNormal.__call__

    def refuse_ours(self, shape, dtype=None):
        assert not isinstance(self, TruncatedNormal), f"drawn: {shape}"
        return draw(self, shape, dtype)

    monkeypatch.setattr(keras.initializers.TruncatedNormal, "__call__", refuse_ours)
    with pytest.raises(AssertionError, match="drawn"):
        make_backbone(name)
    for folder in ("preset", "theirs"):
        got = d2v_tf.load_backbone(tmp_path / folder, verbose=False)
        assert_same_backbone(got, backbone)
