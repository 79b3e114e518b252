"""Byte-level BPE against its definition, against Hugging Face, and in a graph."""

import json
import tarfile

import numpy as np
import pytest
import regex
import tensorflow as tf
from numpy.testing import assert_array_equal

from d2v_tf.backbones.text import Data2VecTextBackbone
from d2v_tf.data.reading import DataError
from d2v_tf.data.tokenization import (
    FIRST_TOKENS,
    Data2VecTextTokenizer,
    TextTokenizer,
    load_tokenizer,
    train_tokenizer,
)
from tests.data.texts import TOPICS

HARD = [
    "",
    " ",
    "  two  spaces   and\ttabs\n\nlines",
    "don't we'll I'M it's 12345 6.78e-9 a_b (x)->[y]!",
    "naïve café 日本語 русский 😀 e\u0301",
    "<s> </s> <mask> <pad> <unk> are text",
    "\u00a0no\u00a0break \u3000wide",
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TOPICS, 600)


def byte_symbols():
    """GPT-2's: printable bytes are themselves, the others follow from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    symbols = {b: chr(b) for b in printable}
    symbols.update({b: chr(256 + i) for i, b in enumerate(others)})
    return symbols


def plain_bpe(tokenizer, text):
    """Byte-level BPE as GPT-2 defines it, a merge at a time."""
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    symbols, ranks, ids = byte_symbols(), {m: i for i, m in enumerate(tokenizer.merges)}, []
    for word in regex.findall(pattern, text):
        parts = [symbols[byte] for byte in word.encode()]
        while True:
            pairs = [
                (ranks.get(pair, 10**9), i)
                for i, pair in enumerate(zip(parts, parts[1:], strict=False))
            ]
            rank, i = min(pairs, default=(10**9, 0))
            if rank == 10**9:
                break
            parts[i : i + 2] = ["".join(parts[i : i + 2])]
        ids += [tokenizer.vocabulary[part] for part in parts]
    return ids


def in_graph(tokenizer, texts):
    layer = tokenizer.in_graph()
    batches = tf.data.Dataset.from_tensor_slices(texts).batch(64).map(layer)
    return [ids for batch in batches for ids in batch.to_list()]


def write_fairseq(tokenizer, folder):
    """As fairseq has it: GPT-2's ids in `encoder.json`, in `dict.txt` those ids by frequency."""
    tokens = [t for t in tokenizer.vocabulary if t not in (*FIRST_TOKENS, "<mask>")]
    encoder = {token: i for i, token in enumerate(sorted(tokens))}
    order = np.random.default_rng(0).permutation(len(tokens))
    (folder / "encoder.json").write_text(json.dumps(encoder))
    merges = "".join(f"{a} {b}\n" for a, b in tokenizer.merges)
    (folder / "vocab.bpe").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
    lines = [f"{i} {1000 - n}\n" for n, i in enumerate(order)]
    (folder / "dict.txt").write_text("".join(lines) + "madeupword0000 0\n")
    words = sorted(tokens)
    return {words[i]: 4 + n for n, i in enumerate(order)}


def test_special_tokens_are_where_roberta_has_them(tokenizer):
    ids = [tokenizer.vocabulary[token] for token in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")]
    assert ids == [0, 1, 2, 3, 599]
    assert tokenizer.vocabulary_size == 600
    assert sorted(tokenizer.vocabulary.values()) == list(range(600))
    assert tokenizer.special_token_ids == tuple(ids)
    assert (tokenizer.start_token_id, tokenizer.padding_token_id) == (0, 1)
    assert (tokenizer.end_token_id, tokenizer.mask_token_id) == (2, 599)


def test_ids_are_those_of_the_definition(tokenizer):
    texts = [*HARD, *(topic[:1500] for topic in TOPICS[:12])]
    for text, ids in zip(texts, tokenizer.encode(texts), strict=True):
        assert ids == plain_bpe(tokenizer, text)
        assert tokenizer.decode(ids) == text
    assert not set(tokenizer.special_token_ids) & set(np.concatenate(tokenizer.encode(HARD)))


@pytest.mark.parametrize("text", ["犬 café “quoted”", *HARD])
def test_a_character_is_given_to_the_last_of_its_tokens(tokenizer, text):
    (ids,) = tokenizer.encode([text])
    texts = tokenizer.texts_of(ids)
    assert len(texts) == len(ids) and "".join(texts) == text
    for end in range(len(ids)):  # Hugging Face decodes what is whole, and marks the rest
        assert "".join(texts[:end]) == tokenizer.decode(ids[:end]).rstrip("\ufffd")


def test_what_is_no_character_is_marked_and_ends_at_a_special_token():
    tokenizer = train_tokenizer(["a"], 261)  # a token for each byte
    (ids,) = tokenizer.encode(["é犬"])
    assert tokenizer.texts_of(ids) == ["", "é", "", "", "犬"]
    start, mask = tokenizer.start_token_id, tokenizer.mask_token_id
    cut = [start, ids[2], ids[3], mask, ids[0]]
    assert tokenizer.texts_of(np.array(cut)) == ["<s>", "", "\ufffd", "<mask>", "\ufffd"]
    assert tokenizer.texts_of([]) == []


def test_merges_are_learned(tokenizer):
    text = TOPICS[3]
    assert len(tokenizer.encode([text])[0]) < 0.5 * len(text)
    assert [" the"] == [tokenizer.decode([i]) for i in tokenizer.encode([" the"])[0]]


def test_equal_texts_give_equal_tokenizers(tokenizer):
    again = train_tokenizer(iter(TOPICS), 600)
    assert again.vocabulary == tokenizer.vocabulary
    assert again.merges == tokenizer.merges


def test_few_texts_give_few_tokens():
    small = train_tokenizer(["aaaa aaaa"], 1000)
    assert small.vocabulary_size < 300
    assert small.mask_token_id == small.vocabulary_size - 1
    assert small.decode(small.encode(["übrig"])[0]) == "übrig"  # every byte has a token
    with pytest.raises(DataError, match="at least 261 tokens.*Received: 260"):
        train_tokenizer(["a"], 260)


def test_a_saved_tokenizer_is_read_from_any_of_its_files(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "all")
    for names in (["tokenizer.json"], ["vocab.json", "merges.txt"]):
        folder = tmp_path / names[0]
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes((tmp_path / "all" / name).read_bytes())
    for path in (
        tmp_path / "all",
        tmp_path / "tokenizer.json",
        tmp_path / "vocab.json",
        tmp_path / "all" / "tokenizer.json",
    ):
        loaded = load_tokenizer(str(path))
        assert loaded.vocabulary == tokenizer.vocabulary
        assert loaded.merges == tokenizer.merges
        assert loaded.encode(HARD) == tokenizer.encode(HARD)


def test_fairseqs_ids_are_in_the_order_of_its_dictionary(tokenizer, tmp_path):
    expected = write_fairseq(tokenizer, tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.vocabulary_size == 4 + len(expected) + 2  # a made-up word and the mask
    assert loaded.vocabulary["madeupword0000"] == loaded.vocabulary_size - 2
    assert loaded.mask_token_id == loaded.vocabulary_size - 1
    assert {token: loaded.vocabulary[token] for token in expected} == expected
    name_of = {i: token for token, i in tokenizer.vocabulary.items()}
    for ids, fairseq_ids in zip(tokenizer.encode(HARD), loaded.encode(HARD), strict=True):
        assert [expected[name_of[i]] for i in ids] == fairseq_ids


def test_hugging_face_reads_what_is_written(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers", reason="pip install transformers")
    tokenizer.save(tmp_path)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    for text in HARD:
        if "<s>" not in text:  # there, special tokens are parsed in texts
            ids = tokenizer.encode([text])[0]
            assert theirs(text)["input_ids"] == [0, *ids, 2]
    assert theirs.convert_tokens_to_ids("<mask>") == 599


def test_ids_in_a_graph_are_the_same(tokenizer):
    paragraphs = [p.strip() for topic in TOPICS[:30] for p in topic.split("\n\n")]
    texts = [*HARD, *TOPICS[:5], *paragraphs]
    assert in_graph(tokenizer, texts) == tokenizer.encode(texts)


def test_ids_in_a_graph_are_the_same_on_real_text(tokenizer, shared_data):
    archive = shared_data / "text_corpus.tar.gz"
    if not archive.is_file():
        pytest.skip(f"no {archive}")
    texts = []
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            if member.name.endswith(".txt"):
                text = tar.extractfile(member).read(60_000).decode("utf-8", "ignore")
                texts += [line.strip() for line in text.split("\n")]
    assert sum(map(len, texts)) > 400_000
    assert in_graph(tokenizer, texts) == tokenizer.encode(texts)


def test_the_layer_gives_the_same_ids_outside_of_a_graph(tokenizer):
    layer, text = tokenizer.in_graph(), "It's 123456 words"  # KerasHub's own would split 123 456
    assert_array_equal(layer(text), tokenizer.encode([text])[0])
    assert layer.detokenize(layer(text)) == text


def test_the_layer_is_part_of_a_preset(tokenizer, tmp_path):
    backbone = Data2VecTextBackbone(
        vocabulary_size=600, num_layers=1, hidden_dim=4, num_heads=1, intermediate_dim=4
    )
    backbone.save_to_preset(str(tmp_path))
    tokenizer.in_graph().save_to_preset(str(tmp_path))
    loaded = Data2VecTextTokenizer.from_preset(str(tmp_path))
    assert loaded.mask_token_id == 599
    assert loaded.start_token_id == 0
    assert loaded(HARD[3:]) == tokenizer.encode(HARD[3:])
    # And a folder of it is a tokenizer to go on with.
    assert load_tokenizer(str(tmp_path / "assets" / "tokenizer")).merges == tokenizer.merges


def test_it_can_be_served(tokenizer, tmp_path):
    module = tf.Module()
    module.layer = tokenizer.in_graph()
    module.serve = tf.function(
        lambda texts: module.layer(texts).to_tensor(1),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )
    tf.saved_model.save(module, str(tmp_path))
    served = tf.saved_model.load(str(tmp_path)).serve(tf.constant(HARD[2:]))
    for row, ids in zip(served.numpy(), tokenizer.encode(HARD[2:]), strict=True):
        assert_array_equal(row[: len(ids)], ids)
        assert (row[len(ids) :] == 1).all()


def test_what_is_no_tokenizer_is_refused_by_name(tokenizer, tmp_path):
    def write(content):
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(content) if isinstance(content, dict) else content)
        return str(path)

    with pytest.raises(DataError, match="has no tokenizer. It must hold one of: tokenizer.json; v"):
        load_tokenizer(str(tmp_path))
    tokenizer.save(tmp_path / "good")
    good = json.loads((tmp_path / "good" / "tokenizer.json").read_text())
    with pytest.raises(DataError, match="cannot be read .*JSONDecodeError"):
        load_tokenizer(write("{"))
    with pytest.raises(DataError, match="it is no byte-level BPE but WordPiece on ByteLevel"):
        load_tokenizer(write({**good, "model": {"type": "WordPiece"}}))
    with pytest.raises(DataError, match="split in another way"):
        split = {**good["pre_tokenizer"], "add_prefix_space": True}
        load_tokenizer(write({**good, "pre_tokenizer": split}))
    with pytest.raises(DataError, match="has no <mask>; RoBERTa's special tokens"):
        load_tokenizer(
            write(
                {
                    **good,
                    "added_tokens": [t for t in good["added_tokens"] if t["content"] != "<mask>"],
                    "model": {
                        **good["model"],
                        "vocab": {t: i for t, i in good["model"]["vocab"].items() if t != "<mask>"},
                    },
                }
            )
        )
    with pytest.raises(DataError, match="lacks 1 tokens that its bytes and merges need .*'e'"):
        vocabulary = {t: i for t, i in good["model"]["vocab"].items() if t != "e"}
        load_tokenizer(write({**good, "model": {**good["model"], "vocab": vocabulary}}))


def test_the_special_tokens_of_a_text_tokenizer_may_stand_anywhere():
    vocabulary = {token: 7 - i for i, token in enumerate((*FIRST_TOKENS, "<mask>"))}
    assert TextTokenizer(vocabulary, []).special_token_ids == (7, 6, 5, 4, 3)
