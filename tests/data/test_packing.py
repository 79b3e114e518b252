"""Packed rows: nothing lost, documents whole where they fit, little padding."""

import numpy as np
import pytest

from d2v_tf.data import packing
from d2v_tf.data.packing import Packer

START, PADDING, END = 0, 1, 2


def pack(documents, row_length, piece=None):
    packer = Packer(row_length, START, END, PADDING)
    for ids in documents:
        for first in range(0, len(ids), piece or len(ids)):
            part = ids[first : first + (piece or len(ids))]
            packer.add(part, ends=first + len(part) == len(ids))
    packer.finish()
    return packer.rows


def unpack(rows):
    """What the rows hold: pieces between `<s>`, `</s>` and padding; and whether `</s>` follows."""
    pieces = []
    for row in rows:
        assert row[0] == START
        text = [token for token in row if token != PADDING]
        assert row == text + [PADDING] * (len(row) - len(text))
        current = []
        for token in text[1:]:
            assert token != START
            if token == END:
                pieces.append((current, True))
                current = []
            else:
                current.append(token)
        if current:
            pieces.append((current, False))
    return pieces


def make_documents(number, longest, seed=0):
    rng = np.random.default_rng(seed)
    lengths = np.ceil(longest * rng.random(number) ** 3).astype(int)
    # Every token is another one, so that none can be lost or repeated unseen.
    return [
        list(range(10 + end - n, 10 + end))
        for n, end in zip(lengths, lengths.cumsum(), strict=True)
    ]


def test_a_row_is_as_documented():
    rows = pack([[11, 12], [13], [14, 15, 16]], 8)
    assert sorted(rows) == [[0, 11, 12, 2, 13, 2, 1, 1], [0, 14, 15, 16, 2, 1, 1, 1]]


@pytest.mark.parametrize("longest", [30, 300])
def test_nothing_is_lost_and_what_fits_is_whole(longest):
    documents = make_documents(400, longest)
    rows = pack(documents, 64)
    assert {len(row) for row in rows} == {64}
    pieces = unpack(rows)
    whole = {tuple(ids) for ids, ends in pieces if ends}
    assert all(tuple(ids) in whole for ids in documents if len(ids) <= 62)
    tokens = sorted(token for ids, _ in pieces for token in ids)
    assert tokens == sorted(token for ids in documents for token in ids)
    # Parts of the long ones fill their rows.
    assert all(len(ids) == 63 for ids, ends in pieces if not ends)
    assert any(not ends for _, ends in pieces) == (longest == 300)


@pytest.mark.parametrize("length", [61, 62, 63, 64, 126, 127])
def test_documents_of_about_the_length_of_a_row(length):
    document = list(range(10, 10 + length))
    pieces = unpack(pack([document], 64))
    assert [token for ids, _ in pieces for token in ids] == document
    assert all(ids for ids, _ in pieces)  # no row or rest of `</s>` alone
    # 62 and `</s>` fill a row; a text of 63 fills it without.
    assert [ends for _, ends in pieces][-1] == (length not in (63, 126))


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_pieces_make_up_the_same_rows(piece):
    documents = make_documents(60, 300)
    assert pack(documents, 32, piece) == pack(documents, 32)


def test_rows_are_nearly_full():
    rows = pack(make_documents(2000, 80), 64)
    full = np.mean(np.array(rows) != PADDING)
    assert full > 0.97
    one = packing.OPEN_ROWS
    try:
        packing.OPEN_ROWS = 1
        assert np.mean(np.array(pack(make_documents(2000, 80), 64)) != PADDING) < full - 0.05
    finally:
        packing.OPEN_ROWS = one


def test_memory_does_not_grow_with_a_document():
    packer = Packer(16, START, END, PADDING)
    for _ in range(1000):
        packer.add(list(range(10, 30)), ends=False)
        packer.rows.clear()
        assert len(packer._document) < 16
    packer.add([5], ends=True)
    packer.finish()
    assert packer.rows
