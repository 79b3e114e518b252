"""What pictures are made of, against scikit-learn and NumPy."""

import re

import numpy as np
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import cosine_similarity

from d2v_tf.backbones.self_attention import SelfAttention
from d2v_tf.reporting.embedding import embedding, in_a_plane, most_frequent
from d2v_tf.reporting.features import Seen
from d2v_tf.reporting.figures import colored, draw, principal_colors
from d2v_tf.reporting.neighbors import nearest, neighbors, shared_labels
from tests.interop.tiny import make_backbone


def test_attention_is_what_the_layer_multiplies_its_values_by():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 8)).astype("float32")
    layer = SelfAttention(2)
    output = layer(x)
    for variable in layer.variables:
        variable.assign(rng.normal(size=variable.shape))
    bias = rng.normal(size=(2, 5, 5)).astype("float32")
    output, weights = np.asarray(layer(x, bias)), np.asarray(layer.weights_of(x, bias))
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
    kernel, added = np.asarray(layer.qkv_kernel)[:, 16:], np.asarray(layer.value_bias)
    values = (x @ kernel + added).reshape(2, 5, 2, 4)  # [B, T, H, D / H]
    mixed = np.einsum("bhts,bshd->bthd", weights, values).reshape(2, 5, 8)
    np.testing.assert_allclose(np.asarray(layer.output_dense(mixed)), output, atol=1e-4)


def test_a_backbone_gives_every_blocks_attention_and_none_to_padding():
    backbone = make_backbone("text")
    ids = np.array([[0, 7, 8, 9, 2, 1, 1], [0, 7, 8, 9, 10, 11, 2]])
    weights = backbone.attention_weights({"token_ids": ids, "padding_mask": ids != 1})
    assert len(weights) == len(backbone.encoder.blocks)
    for block in weights:
        block = np.asarray(block)
        np.testing.assert_allclose(block.sum(axis=-1), 1, atol=1e-5)
        assert block[0, :, :, 5:].max() < 1e-6 < block[1, :, :, 5:].min()
    images = np.random.default_rng(0).normal(
        size=(1, *make_backbone("vision_per_block").image_shape)
    )
    first = np.asarray(make_backbone("vision_per_block").attention_weights(images)[0])
    np.testing.assert_allclose(first.sum(axis=-1), 1, atol=1e-5)


def test_colors_are_principal_components():
    rng = np.random.default_rng(1)
    parts = [rng.normal(size=(n, 8)) * np.arange(8, 0, -1) for n in (40, 30)]
    got = principal_colors(parts)
    assert [c.shape for c in got] == [(40, 3), (30, 3)]
    expected = PCA(3).fit_transform(np.concatenate(parts))
    joined = np.concatenate(got).astype("float64")
    for channel in range(3):
        inside = (joined[:, channel] > 0) & (joined[:, channel] < 255)  # the ends are cut
        found = np.corrcoef(joined[inside, channel], expected[inside, channel])[0, 1]
        assert abs(found) > 0.999
    assert principal_colors([np.ones((3, 2))])[0].shape == (3, 3)


def test_neighbors_and_what_they_share():
    rng = np.random.default_rng(2)
    pooled = rng.normal(size=(30, 6)) + 5
    order, similarity = nearest(pooled, 4)
    expected = cosine_similarity(pooled - pooled.mean(axis=0))
    for i in range(30):
        others = [j for j in np.argsort(-expected[i]) if j != i][:4]
        assert order[i].tolist() == others
        np.testing.assert_allclose(similarity[i], expected[i][others], atol=1e-9)
    labels = np.array([0, 0, 1, -1])
    order = np.array([[1, 2], [2, 3], [0, 1], [0, 1]])
    same, chance = shared_labels(order, labels)
    # Of six neighbors of the labelled ones, one has the same label; any other has it in 2 of 9.
    assert (same, chance) == (1 / 6, 2 / 9)
    assert shared_labels(order, np.zeros(4, int)) is None


def seen_of(labels, class_names=None):
    """Examples with random features."""
    pooled = np.random.default_rng(4).normal(size=(len(labels), 6)).astype("float32")
    return Seen(list(labels), pooled, np.array(labels), class_names, [], [])


def names_in_legend(page):
    return re.findall(r'class="dot"[^>]*></span>([^<]*)</span>', page)


def test_the_plane_names_as_many_classes_as_there_are_colors():
    # Of 40 classes those from 30 on are there twice.
    labels = [*range(40), *range(30, 40)]
    assert most_frequent(np.array(labels)) == list(range(30, 40))
    page = embedding(seen_of(labels, tuple(f"class {i}" for i in range(40))))
    assert names_in_legend(page) == [*(f"class {i}" for i in range(30, 40)), "others"]
    assert names_in_legend(embedding(seen_of([0, 1, 1, -1]))) == ["0", "1", "no label"]
    assert names_in_legend(embedding(seen_of([0, 1, 1, 0]))) == ["0", "1"]
    assert names_in_legend(embedding(seen_of([-1, -1, -1]))) == []


def test_the_plane_says_how_it_was_made():
    for number in (2, 9, 10, 30):
        page = embedding(seen_of([0] * number))
        assert ("t-SNE: who is near" in page) == (number >= 10)
        assert (f"principal components, for t-SNE needs more than these {number}" in page) == (
            number < 10
        )


def test_a_few_examples_and_odd_names_make_pictures_too():
    rng = np.random.default_rng(3)
    for number in (2, 5, 12):
        assert in_a_plane(rng.normal(size=(number, 6)).astype("float32")).shape == (number, 2)
    seen = Seen([1, 2], rng.normal(size=(2, 4)), np.array([0, 1]), ("<b>", "犬"), [], [])
    page = neighbors(seen, lambda example: f"picture {example}")
    assert "&lt;b&gt;" in page and "<b>&lt;" in page and "犬" in page
    svg = draw(lambda figure: figure.add_subplot().set_title("a $ and 犬"), 3, 2, 'a "label"')
    assert svg.startswith("<svg") and "a $ and 犬" in svg and "currentColor" in svg
    assert "&quot;label&quot;" in svg
    assert colored(np.zeros((2, 3))).shape == (2, 3, 3)
