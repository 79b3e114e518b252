"""Transcripts as numbers and back."""

import pytest

from d2v_tf.data.reading import DataError
from d2v_tf.finetuning.letters import (
    count_unknown,
    decode_letters,
    encode_letters,
    letter_vocabulary,
)

VOCABULARY = ("<pad>", "<s>", "</s>", "<unk>", "|", "'", "a", "b", "é", "B")


def test_vocabulary_keeps_case_and_characters_and_has_hugging_faces_head():
    got = letter_vocabulary(["Ça va", "l'été  ", ""])
    assert got == ("<pad>", "<s>", "</s>", "<unk>", "|", "'", "a", "l", "t", "v", "Ç", "é")[
        :5
    ] + tuple(sorted("'alvtÇé"))


def test_round_trip():
    texts = ["ab ba", "", "B'é", "a"]
    encoded = encode_letters(texts, VOCABULARY)
    assert [row.tolist() for row in encoded] == [[6, 7, 4, 7, 6], [], [9, 5, 8], [6]]
    assert [decode_letters(row, VOCABULARY) for row in encoded] == texts


def test_white_space_of_any_kind_parts_words():
    (row,) = encode_letters(["  a \t b\n"], VOCABULARY)
    assert row.tolist() == [6, 4, 7]


def test_special_entries_decode_to_nothing_and_unknown_to_itself():
    assert decode_letters([1, 4, 6, 2, 4, 4, 3, 0], VOCABULARY) == "a <unk>"


def test_unknown_letters_are_refused_by_name_and_counted():
    with pytest.raises(DataError, match=r"no 'x' 'z' \(first in the transcript 'a z'\)"):
        encode_letters(["ab", "a z", "x"], VOCABULARY)
    assert count_unknown(["ab", "a z", "xz|"], VOCABULARY) == {"x": 1, "z": 2, "|": 1}
    assert count_unknown(["ab", "é B"], VOCABULARY) == {}


def test_a_bar_is_no_letter():
    with pytest.raises(DataError, match="between words"):
        letter_vocabulary(["a|b"])
    with pytest.raises(DataError, match="all are empty"):
        letter_vocabulary(["", " "])


def test_a_bar_in_a_transcript_is_refused_by_an_encoder_too():
    with pytest.raises(DataError, match=r"'\|'"):
        encode_letters(["a|b"], VOCABULARY)
