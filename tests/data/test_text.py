"""Text batches: a function of seed and position."""

import dataclasses
import gzip
import shutil

import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_array_equal
from rich.console import Console

from d2v_tf.data import text as text_data
from d2v_tf.data.prepare_text import prepare_text
from d2v_tf.data.reading import BadExamples, DataError
from d2v_tf.data.text import open_corpus, pretraining_dataset
from d2v_tf.masking import token_mask
from tests.data.texts import write_corpus


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A prepared corpus of some shards."""
    path = tmp_path_factory.mktemp("corpus")
    write_corpus(path / "text", 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("d2v_tf.data.prepare_text.SHARD_BYTES", (1 << 14, 1 << 14))
        prepare_text(
            f"text:{path}/text/*",
            str(path / "out"),
            Console(quiet=True),
            vocabulary_size=300,
            row_length=32,
            workers=1,
        )
    return str(path / "out")


@pytest.fixture(params=["prepared", "in_memory"])
def corpus(request, folder):
    if request.param == "prepared":
        return open_corpus(f"folder:{folder}")
    return open_corpus(f"text:{folder}/../text/*", row_length=32, tokenizer=f"{folder}/tokenizer")


def batches(corpus, bad=None, **overrides):
    arguments = {
        "sequence_length": 40,
        "batch_size": 8,
        "seed": 0,
        "start": 0,
        "ratio": 0.15,
        "span_length": 1,
        "random_part": 0.1,
        "keep_part": 0.1,
        "bad_examples": bad or BadExamples(corpus.source.name, corpus.source.num_examples),
        **overrides,
    }
    return pretraining_dataset(corpus, **arguments)


def take(dataset, count):
    return list(dataset.take(count).as_numpy_iterator())


def assert_equal_batches(one, other):
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        for name in left:
            assert_array_equal(left[name], right[name])


def joined(dataset, count):
    found = take(dataset, count)
    return {name: np.concatenate([batch[name] for batch in found]) for name in found[0]}


def test_batches_are_as_the_rule_wants_them(corpus):
    dataset = batches(corpus)
    expected = {
        "token_ids": tf.int32,
        "target_token_ids": tf.int32,
        "padding_mask": tf.bool,
        "mask": tf.bool,
    }
    assert {name: s.dtype for name, s in dataset.element_spec.items()} == expected
    assert {tuple(s.shape) for s in dataset.element_spec.values()} == {(8, 40)}
    rows = joined(dataset, 20)
    tokens, mask, tokenizer = rows["target_token_ids"], rows["mask"], corpus.tokenizer
    assert_array_equal(rows["padding_mask"], tokens != 1)
    assert_array_equal(rows["token_ids"][~mask], tokens[~mask])
    assert (rows["token_ids"][mask] == tokenizer.mask_token_id).mean() > 0.7
    assert not np.isin(tokens[mask], tokenizer.special_token_ids).any()
    assert (tokens[:, 32:] == 1).all() and (tokens[:, 0] == 0).all()
    assert not (tokens == tokenizer.mask_token_id).any()


def test_an_epoch_has_every_row_once_and_the_next_another_order(corpus):
    number = corpus.source.num_examples
    assert 50 < number < 4000
    epochs = joined(batches(corpus, batch_size=1), 2 * number)["target_token_ids"]
    first, second = epochs[:number], epochs[number:]
    assert sorted(map(tuple, first)) == sorted(map(tuple, second))
    assert len(set(map(tuple, first))) > 0.9 * number  # the text repeats itself here and there
    assert (first != second).any(axis=1).mean() > 0.9
    in_order = joined(batches(corpus, batch_size=1, shuffle=False), number)["target_token_ids"]
    assert sorted(map(tuple, in_order)) == sorted(map(tuple, first))
    assert (first != in_order).any(axis=1).mean() > 0.9


def test_prepared_and_unprepared_text_have_the_same_tokens(folder):
    prepared = open_corpus(f"folder:{folder}")
    tokens = []
    for corpus in (
        prepared,
        open_corpus(f"text:{folder}/../text/*", row_length=32, tokenizer=f"{folder}/tokenizer"),
        open_corpus(f"text:{folder}/../text/*", row_length=32, vocabulary_size=300),
    ):
        assert corpus.tokenizer.merges == prepared.tokenizer.merges
        rows = joined(batches(corpus, batch_size=1), corpus.source.num_examples)
        # Shards are packed each for itself, so that rows differ.
        tokens.append(np.sort(rows["target_token_ids"][rows["target_token_ids"] > 3]))
    assert_array_equal(tokens[0], tokens[1])
    assert_array_equal(tokens[0], tokens[2])


@pytest.mark.parametrize("start", [0, 1, 5, "an epoch and 3"])
def test_a_run_continues_from_any_position(corpus, start):
    per_epoch = corpus.source.num_examples // 8
    start = per_epoch + 3 if start == "an epoch and 3" else start
    whole = take(batches(corpus), start + 4)
    assert_equal_batches(whole[start:], take(batches(corpus, start=8 * start), 4))


def test_seeds_and_epochs_give_other_masks(corpus):
    first = joined(batches(corpus, shuffle=False), 4)
    other = joined(batches(corpus, shuffle=False, seed=1), 4)
    assert_array_equal(first["target_token_ids"], other["target_token_ids"])
    assert (first["mask"] != other["mask"]).any(axis=1).mean() > 0.9
    number = corpus.source.num_examples
    again = joined(batches(corpus, shuffle=False, start=number), 4)
    assert_array_equal(first["target_token_ids"], again["target_token_ids"])
    assert (first["mask"] != again["mask"]).any(axis=1).mean() > 0.9


def test_a_row_is_masked_alike_whatever_its_batch_and_shard(corpus):
    large = joined(batches(corpus, batch_size=16), 1)
    for name, rows in joined(batches(corpus, batch_size=4), 4).items():
        assert_array_equal(rows, large[name])
    for shard in range(2):
        part = joined(batches(corpus, num_shards=2, shard=shard), 1)
        for name in part:
            assert_array_equal(part[name], large[name][shard::2])


def test_masks_are_token_masks_of_seed_and_position(corpus):
    spans = {"ratio": 0.35, "span_length": 4, "random_part": 0.0, "keep_part": 0.0}
    batch = take(batches(corpus, seed=3, start=16, **spans), 1)[0]
    seeds = [[3, (1 << 40) + 16 + i] for i in range(8)]
    tokenizer = corpus.tokenizer
    masked, mask = token_mask(
        batch["target_token_ids"],
        tf.constant(seeds, tf.int64),
        tokenizer.mask_token_id,
        tokenizer.special_token_ids,
        tokenizer.vocabulary_size,
        **spans,
    )
    assert_array_equal(batch["token_ids"], masked)
    assert_array_equal(batch["mask"], mask)


def test_builtin_needs_no_file():
    corpus = open_corpus("builtin", row_length=64, vocabulary_size=512)
    assert corpus.source.num_examples > 1000
    assert corpus.tokenizer.vocabulary_size == 512
    again = open_corpus("builtin", row_length=64, vocabulary_size=512)
    assert_equal_batches(
        take(batches(corpus, sequence_length=64), 2), take(batches(again, sequence_length=64), 2)
    )


def test_some_shards_are_a_corpus_too(folder):
    whole, part = open_corpus(f"folder:{folder}"), open_corpus(f"tfrecord:{folder}/*-00001.*record")
    assert 0 < part.source.num_examples < whole.source.num_examples
    assert_equal_batches(
        take(batches(open_corpus(f"tfrecord:{folder}/*.tfrecord")), 2), take(batches(whole), 2)
    )


def test_a_damaged_record_is_replaced_and_counted(folder):
    corpus = open_corpus(f"folder:{folder}")
    parse = corpus.source.parse

    def damaged(record):
        broken = tf.strings.to_hash_bucket_fast(record, 40) == 0
        return parse(tf.where(broken, tf.constant("no record"), record))

    source = dataclasses.replace(corpus.source, parse=damaged)
    bad = BadExamples("corpus", source.num_examples, max_bad=0.5, warn=lambda line: None)
    rows = joined(batches(dataclasses.replace(corpus, source=source), bad), 20)
    assert bad.count > 0
    assert len(rows["mask"]) == 160 and (rows["target_token_ids"][:, 0] == 0).all()


def test_shards_are_named_by_a_glob_or_by_their_folder(folder, tmp_path):
    by_glob = open_corpus(f"tfrecord:{folder}/*.tfrecord")
    moved = tmp_path / "with [brackets]"
    shutil.copytree(folder, moved)
    (moved / "shard-00009.tfrecord.tmp").write_text("left over")  # as an interrupt leaves it
    by_folder = open_corpus(f"tfrecord:{moved}")
    assert by_folder.source.num_examples == by_glob.source.num_examples > 0


def test_a_folder_of_no_shards_or_of_several_sets_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"is a folder without files named \*.tfrecord or"):
        open_corpus(f"tfrecord:{tmp_path}")
    for name in ("a-dev.tfrecord-00000-of-00001", "train-00000-of-00001.tfrecord"):
        (tmp_path / name).write_text("")
    with pytest.raises(DataError, match=r"several sets: a-dev, train. Name one .*/a-dev\*'"):
        open_corpus(f"tfrecord:{tmp_path}")


def test_what_is_no_corpus_is_refused_by_name(folder, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="'texts:x' is not a source; .* Did you mean text"):
        open_corpus("texts:x")
    with pytest.raises(DataError, match="holds no prepared text. python tools/prepare.py .*text:"):
        open_corpus(f"folder:{tmp_path}")
    with pytest.raises(DataError, match="names no file"):
        open_corpus(f"tfrecord:{tmp_path}/*.tfrecord")
    with pytest.raises(DataError, match="builtin has no splits. Received: 'test'"):
        open_corpus("builtin:test", vocabulary_size=300)
    with pytest.raises(DataError, match="size of a vocabulary to train, or a tokenizer"):
        open_corpus("builtin")
    (tmp_path / "blank.txt").write_text("\n\n")
    with pytest.raises(DataError, match="has no text"):
        open_corpus(f"text:{tmp_path}/blank.txt", vocabulary_size=300)
    with pytest.raises(DataError, match="rows of 32 tokens, more than the 16 of model.max_seq"):
        batches(open_corpus(f"folder:{folder}"), sequence_length=16)
    with pytest.raises(DataError, match="must have at least 261 tokens.*Received: 100"):
        open_corpus("builtin", vocabulary_size=100)
    monkeypatch.setattr(text_data, "MAX_UNPREPARED_BYTES", 10)
    with pytest.raises(DataError, match="has more than the .* MB of text .*tools/prepare.py"):
        open_corpus(f"text:{folder}/../text/*", vocabulary_size=300)


def test_a_small_file_of_much_text_is_read_only_to_the_limit(tmp_path, monkeypatch):
    path = tmp_path / "much.txt.gz"
    path.write_bytes(gzip.compress(b"again and again\n" * (1 << 18)))  # 4 MB in 9 kB
    monkeypatch.setattr(text_data, "MAX_UNPREPARED_BYTES", 1 << 19)
    read, read_source = [], text_data.read_source

    def noted(source):
        for piece in read_source(source):
            read.append(len(piece.text))
            yield piece

    monkeypatch.setattr(text_data, "read_source", noted)
    with pytest.raises(DataError, match="has more than the 1 MB of text .*tools/prepare.py"):
        open_corpus(f"text:{path}", vocabulary_size=300)
    assert 1 << 19 < sum(read) < 1 << 20
