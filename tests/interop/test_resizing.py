"""Position tables for other image sizes, against polynomials, PyTorch and themselves."""

import numpy as np
import pytest

import d2v_tf
from d2v_tf.interop.key_map import WeightsError
from d2v_tf.interop.resizing import (
    resize_backbone,
    resize_position_embedding,
    resize_relative_table,
)
from tests.interop.tiny import assert_same_backbone, make_backbone


def spread(old, new):
    """Distances of a table's rows by bisection: a geometric series from 1 to the new largest."""
    low, high = 1.01, 1.5
    for _ in range(60):
        q = (low + high) / 2
        low, high = (low, q) if sum(q**k for k in range(old - 1)) > new - 1 else (q, high)
    far = [sum(low**j for j in range(k)) for k in range(1, old)]
    return np.array([-x for x in far[::-1]] + [0.0] + far)


@pytest.mark.parametrize(
    ("source", "target"), [((4, 4), (6, 6)), ((14, 14), (24, 24)), ((3, 5), (4, 7))]
)
def test_a_cubic_of_the_distances_is_read_at_whole_distances(source, target):
    """Of two heads; a bicubic spline gives a bicubic polynomial back exactly."""

    def polynomials(y, x):
        y, x = y[:, None] / 10, x[None, :] / 10
        one = 1 + y - 2 * x + 3 * x**2 * y - y**3 + 0.5 * x**3
        return np.stack([one.reshape(-1), (y * x - 4 * x**3 * y**2).reshape(-1)], axis=1)

    known = [spread(*sides) for sides in zip(source, target, strict=True)]
    wanted = [np.arange(2 * side - 1) - (side - 1) for side in target]
    # From 4 to 6 patches the series ends at 4.75, short of 5: the table's edge is repeated.
    wanted = [np.clip(w, k[0], k[-1]) for w, k in zip(wanted, known, strict=True)]
    last = np.arange(6.0).reshape(3, 2)
    table = np.concatenate([polynomials(*known), last]).astype("float32")
    expected = np.concatenate([polynomials(*wanted), last])
    got = resize_relative_table(table, source, target)
    assert got.dtype == "float32"
    np.testing.assert_allclose(got, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("target", [(1, 1), (2, 3), (9, 9), (60, 60)])
def test_distances_keep_their_sign_and_the_middle_its_place(target):
    """Smaller grids, one beyond the limit of the series, and one patch."""
    rows, columns = np.meshgrid(np.arange(9) - 4.0, np.arange(9) - 4.0, indexing="ij")
    table = np.stack([rows.reshape(-1), 5 - np.abs(columns.reshape(-1))], axis=1)
    table = np.concatenate([table, np.zeros((3, 2))]).astype("float32")
    got = resize_relative_table(table, (5, 5), target)[:-3]
    height, width = 2 * target[0] - 1, 2 * target[1] - 1
    vertical, horizontal = got.T.reshape(2, height, width)
    side = np.sign(np.arange(height) - target[0] + 1)[:, None]  # above -1, below 1
    expected = np.broadcast_to(side, (height, width))
    np.testing.assert_array_equal(np.sign(vertical.round(4)), expected)
    assert horizontal[:, target[1] - 1] == pytest.approx(5, abs=1e-4)
    assert np.abs(got).max() <= 5.1  # no extrapolation runs away


def test_the_side_that_stays_is_not_touched():
    table = np.random.default_rng(0).normal(size=(7 * 7 + 3, 2)).astype("float32")  # 4 x 4
    wide = resize_relative_table(table, (4, 4), (4, 7))
    before, after = (t[:-3].reshape(7, -1, 2) for t in (table, wide))
    # Pairs of the same column keep their bias whatever their rows.
    np.testing.assert_allclose(after[:, 6], before[:, 3], atol=1e-5)
    assert np.abs(after[:, 4] - before[:, 1]).max() > 1e-3  # the columns are spread out


def test_from_one_patch_on():
    table = np.array([[2.0], [3.0], [4.0], [5.0]], "float32")
    got = resize_relative_table(table, (1, 1), (2, 2))
    np.testing.assert_allclose(got[:, 0], [2.0] * 9 + [3, 4, 5], atol=1e-6)


@pytest.mark.parametrize(
    ("source", "target"),
    [((3, 3), (5, 5)), ((6, 4), (3, 7)), ((14, 14), (24, 24)), ((1, 2), (3, 2))],
)
def test_learned_positions_as_pytorch_resizes_them(source, target):
    torch = pytest.importorskip("torch")
    table = np.random.default_rng(0).normal(size=(1, 1 + source[0] * source[1], 5))
    table = table.astype("float32")
    grid = torch.tensor(table[:, 1:].reshape(1, *source, 5).transpose(0, 3, 1, 2))
    expected = torch.nn.functional.interpolate(grid, target, mode="bicubic", align_corners=False)
    expected = expected.numpy().transpose(0, 2, 3, 1).reshape(1, -1, 5)
    got = resize_position_embedding(table, source, target)
    np.testing.assert_array_equal(got[:, :1], table[:, :1])
    np.testing.assert_allclose(got[:, 1:], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["vision_per_block", "vision_shared_absolute_gray"])
def test_load_backbone_resizes(name, tmp_path):
    backbone = make_backbone(name)
    d2v_tf.save_huggingface(backbone, tmp_path / "theirs")
    backbone.save_to_preset(str(tmp_path / "ours"))
    height, width, channels = backbone.image_shape
    shape = (2 * height, 3 * width, channels)
    got = d2v_tf.load_backbone(tmp_path / "theirs", image_shape=shape, verbose=False)
    assert got.image_shape == shape
    assert got(np.zeros((1, *shape), "float32")).shape == (1, 1 + np.prod(got.grid), 12)
    assert_same_backbone(
        d2v_tf.load_backbone(tmp_path / "ours", image_shape=shape, verbose=False), got
    )
    changed = 0
    for one, two in zip(got.weights, backbone.weights, strict=True):
        if one.shape == two.shape:
            np.testing.assert_array_equal(np.asarray(one), np.asarray(two))
        else:
            changed += 1
    assert changed == 2  # a table in each of two blocks; one for all, and the absolute positions
    table = {
        "vision_per_block": lambda b: b.encoder.blocks[1].relative_position_bias.table,
        "vision_shared_absolute_gray": lambda b: b.encoder.shared_bias.table,
    }[name]
    expected = resize_relative_table(np.asarray(table(backbone)), backbone.grid, got.grid)
    np.testing.assert_array_equal(np.asarray(table(got)), expected)
    assert resize_backbone(got, shape) is got


def test_what_cannot_be_resized(tmp_path):
    d2v_tf.save_huggingface(make_backbone("vision_per_block"), tmp_path / "vision")
    d2v_tf.save_huggingface(make_backbone("text"), tmp_path / "text")
    for shape in [(24, 24, 1), (24,)]:
        with pytest.raises(WeightsError, match="with as many channels as in"):
            d2v_tf.load_backbone(tmp_path / "vision", image_shape=shape)
    with pytest.raises(WeightsError, match="patch_size must divide"):
        d2v_tf.load_backbone(tmp_path / "vision", image_shape=(13, 12, 3))
    with pytest.raises(WeightsError, match="image_shape is for a Data2VecVisionBackbone"):
        d2v_tf.load_backbone(tmp_path / "text", image_shape=(24, 24, 3))
