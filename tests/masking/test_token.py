"""Token masks: rates, spans, what is never masked, and what a mask depends on."""

import collections
import itertools

import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_array_equal

from d2v_tf.masking import max_masked_tokens, token_mask

VOCABULARY = 50
SPECIAL = (0, 1, 2, 3)
MASK_ID = 49
SPANS = {"ratio": 0.35, "span_length": 4, "random_part": 0.0, "keep_part": 0.0}


def make_tokens(number, length=64, lengths=None):
    """`<s>`, ordinary tokens, `</s>`, padding; every third row has a `</s>` in the middle too."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(4, MASK_ID, (number, length)).astype("int32")
    tokens[:, 0] = 0
    tokens[::3, length // 2] = 2
    for row, size in zip(tokens, lengths or itertools.repeat(length), strict=False):
        row[size - 1] = 2
        row[size:] = 1
    return tokens


def make_seeds(number, seed=0):
    return np.random.default_rng(seed).integers(0, 2**31 - 1, (number, 2), dtype="int32")


def mask_tokens(tokens, seeds=None, **arguments):
    seeds = make_seeds(len(tokens)) if seeds is None else seeds
    masked, mask = token_mask(tokens, seeds, MASK_ID, SPECIAL, VOCABULARY, **arguments)
    return np.asarray(masked), np.asarray(mask)


def within(count, number, part, errors=4):
    """Whether a count is within standard errors of a binomial one."""
    return abs(count - number * part) <= errors * np.sqrt(number * part * (1 - part))


@pytest.mark.parametrize("arguments", [{}, {"ratio": 0.4}, SPANS, {**SPANS, "span_length": 3}])
def test_rates_are_as_asked_for(arguments):
    tokens = make_tokens(3000)
    _, mask = mask_tokens(tokens, **arguments)
    maskable = ~np.isin(tokens, SPECIAL)
    ratio, span = arguments.get("ratio", 0.15), arguments.get("span_length", 1)
    exact = ratio * maskable.sum(axis=1) / span
    spans = mask.sum(axis=1) / span
    # The number is the wanted one, rounded up or down; which, is a draw.
    assert (np.abs(spans - exact) < 1).all()
    assert_array_equal(spans, np.round(spans))
    fraction = exact - np.floor(exact)
    errors = np.sqrt((fraction * (1 - fraction)).sum())
    assert abs(spans.sum() - exact.sum()) <= 4 * errors + 1e-3
    assert mask.sum(axis=1).max() <= max_masked_tokens(64, ratio, span)


def test_every_token_is_masked_equally_often():
    tokens = make_tokens(6000)
    tokens[:, 32] = 7  # rows alike, so that positions can be compared
    counts = mask_tokens(tokens)[1].sum(axis=0)
    assert counts[0] == counts[-1] == 0
    part = 0.15
    assert all(within(count, 6000, part, 4.5) for count in counts[1:-1])


@pytest.mark.parametrize("parts", [(0.1, 0.1), (0.0, 0.3), (0.25, 0.0), (0.0, 0.0), (0.5, 0.5)])
def test_masked_tokens_become_the_mask_another_token_or_stay(parts):
    random_part, keep_part = parts
    tokens = make_tokens(4000)
    masked, mask = mask_tokens(tokens, random_part=random_part, keep_part=keep_part)
    assert_array_equal(masked[~mask], tokens[~mask])
    number = mask.sum()
    is_mask, same = masked[mask] == MASK_ID, masked[mask] == tokens[mask]
    assert within(is_mask.sum(), number, 1 - random_part - keep_part)
    # A drawn token is the old one now and then.
    ordinary = VOCABULARY - len(SPECIAL) - 1
    assert within(same.sum(), number, keep_part + random_part / ordinary)
    drawn = masked[mask][~is_mask & ~same]
    if random_part:
        counts = np.bincount(drawn, minlength=VOCABULARY)
        assert counts[list(SPECIAL)].sum() == counts[MASK_ID] == 0
        expected = len(drawn) / ordinary
        chi_squared = ((counts[4:MASK_ID] - expected) ** 2 / expected).sum()
        assert chi_squared < 79  # 44 degrees of freedom, p = 0.001
    else:
        assert len(drawn) == 0


@pytest.mark.parametrize("arguments", [{}, SPANS, {"ratio": 1.0}])
def test_special_tokens_and_padding_are_never_touched(arguments):
    lengths = [2, 3, 5, 9, 17, 33, 63, 64] * 40
    tokens = make_tokens(320, lengths=lengths)
    masked, mask = mask_tokens(tokens, **arguments)
    special = np.isin(tokens, SPECIAL)
    assert not mask[special].any()
    assert_array_equal(masked[special], tokens[special])
    if arguments.get("ratio") == 1.0:
        assert_array_equal(mask, ~special)
    assert not mask[np.array(lengths) == 2].any()  # nothing to mask, and no error


def test_a_mask_token_in_the_text_counts_as_special():
    tokens = make_tokens(200)
    tokens[:, 5] = MASK_ID
    assert not mask_tokens(tokens, ratio=0.9)[1][:, 5].any()


def run_lengths(row):
    return [sum(1 for _ in group) for value, group in itertools.groupby(row) if value]


def test_spans_have_their_length():
    tokens = make_tokens(500)
    masked, mask = mask_tokens(tokens, **SPANS)
    assert (masked[mask] == MASK_ID).all()
    # Without the special tokens, which spans go on behind.
    runs = [n for row, m in zip(tokens, mask, strict=True) for n in run_lengths(m[row > 3])]
    assert all(n % 4 == 0 for n in runs)  # spans may touch
    assert 4 in runs and 8 in runs


def test_every_arrangement_of_spans_is_equally_likely():
    tokens = np.array([[0, 5, 5, 5, 5, 5, 2, 5, 5, 1]] * 6000, "int32")  # 7 to mask
    _, mask = mask_tokens(tokens, ratio=4 / 7, span_length=2, random_part=0, keep_part=0)
    counts = collections.Counter(map(tuple, mask[:, [1, 2, 3, 4, 5, 7, 8]].astype(int)))
    # Two spans of two among seven: 5 shrunk positions, 2 of them spans.
    expected = collections.Counter()
    for slots in itertools.combinations(range(5), 2):
        row = "".join("11" if i in slots else "0" for i in range(5))
        expected[tuple(map(int, row))] += 1
    assert sorted(counts) == sorted(expected)
    total = sum(expected.values())
    chi_squared = sum(
        (counts[k] - 6000 * n / total) ** 2 / (6000 * n / total) for k, n in expected.items()
    )
    assert chi_squared < 24.4  # at most 8 degrees of freedom, p = 0.002


@pytest.mark.parametrize("arguments", [{}, SPANS])
def test_a_seed_determines_its_mask_whatever_the_batch(arguments):
    tokens, seeds = make_tokens(40), make_seeds(40)
    masked, mask = mask_tokens(tokens, seeds, **arguments)
    for part in (slice(None, None, -1), slice(7, 9)):
        again, again_mask = mask_tokens(tokens[part], seeds[part], **arguments)
        assert_array_equal(again, masked[part])
        assert_array_equal(again_mask, mask[part])
    single, single_mask = token_mask(tokens[3], seeds[3], MASK_ID, SPECIAL, VOCABULARY, **arguments)
    assert single.shape == single_mask.shape == (64,)
    assert_array_equal(single, masked[3])
    assert_array_equal(single_mask, mask[3])
    for column in (0, 1):  # both numbers of a seed count
        changed = seeds.copy()
        changed[:, column] += 1
        assert ((mask_tokens(tokens, changed, **arguments)[1] != mask).any(axis=1)).all()


def test_shapes_are_static_in_a_graph():
    tokens, seeds = make_tokens(6), make_seeds(6)
    dataset = tf.data.Dataset.from_tensors((tokens, seeds)).map(
        lambda t, s: token_mask(t, s, MASK_ID, SPECIAL, VOCABULARY)
    )
    assert [spec.shape for spec in dataset.element_spec] == [(6, 64), (6, 64)]
    assert [spec.dtype for spec in dataset.element_spec] == [tf.int32, tf.bool]
    masked, mask = next(dataset.as_numpy_iterator())
    expected, expected_mask = mask_tokens(tokens, seeds)
    assert_array_equal(masked, expected)
    assert_array_equal(mask, expected_mask)


@pytest.mark.parametrize(
    ("length", "ratio", "span", "most"),
    [(512, 0.15, 1, 77), (512, 0.35, 4, 180), (20, 0.15, 1, 3), (10, 1.0, 4, 8), (8, 0.01, 4, 4)],
)
def test_the_most_is_reached_and_never_exceeded(length, ratio, span, most):
    assert max_masked_tokens(length, ratio, span) == most
    tokens = np.full((400, length), 7, "int32")
    _, mask = mask_tokens(tokens, ratio=ratio, span_length=span)
    assert mask.sum(axis=1).max() == most


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratio": 0.0}, "ratio must be above 0 .* Received: 0.0"),
        ({"ratio": 1.5}, "Received: 1.5"),
        ({"span_length": 0}, "between 1 and the 64 tokens. Received: 0"),
        ({"span_length": 65}, "between 1 and the 64 tokens. Received: 65"),
        ({"random_part": 0.6, "keep_part": 0.5}, "random_part=0.6, keep_part=0.5"),
        ({"keep_part": -0.1}, "keep_part=-0.1"),
    ],
)
def test_errors_name_the_argument_and_the_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        mask_tokens(make_tokens(2), **arguments)
