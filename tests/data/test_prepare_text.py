"""Prepared corpora: what is in the shards, resuming, and what is refused."""

import dataclasses
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from d2v_tf.data import prepare_text
from d2v_tf.data.reading import DataError
from d2v_tf.data.shards import Counts, parse_row, read_corpus
from d2v_tf.data.tokenization import load_tokenizer, train_tokenizer
from tests.data.test_packing import unpack
from tests.data.texts import TOPICS, write_corpus

ROOT = Path(__file__).resolve().parents[2]
ROW = 64


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TOPICS[:12], 400).save(folder)
    return str(folder)


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of 8 kB, so that a small corpus has several."""
    monkeypatch.setattr(prepare_text, "SHARD_BYTES", (1 << 13, 1 << 13))


@pytest.fixture
def console():
    with open(os.devnull, "w") as file:
        yield Console(file=file)


def prepare(source, out, console, **kwargs):
    return prepare_text.prepare_text(
        str(source), str(out), console, **{"row_length": ROW, "workers": 1, **kwargs}
    )


def read_rows(out):
    """All rows of a prepared corpus, in order, by TensorFlow's own reader."""
    _, shards = read_corpus(str(out))
    rows = []
    for path, number in shards.items():
        records = list(tf.data.TFRecordDataset(path))
        assert len(records) == number
        rows += [parse_row(record, ROW).numpy().tolist() for record in records]
    return rows


def contents(out):
    return {path.name: path.read_bytes() for path in Path(out).glob("shard-*")}


def test_the_shards_hold_the_documents(tmp_path, tokenizer, console, small_shards):
    documents = write_corpus(tmp_path / "text")
    counts = prepare(f"text:{tmp_path}/text/*.txt", tmp_path / "out", console, tokenizer=tokenizer)
    loaded = load_tokenizer(str(tmp_path / "out" / "tokenizer"))
    assert loaded.vocabulary == load_tokenizer(tokenizer).vocabulary
    rows = read_rows(tmp_path / "out")
    pieces = unpack(rows)
    expected = loaded.encode(documents)
    short = sorted(ids for ids in expected if len(ids) <= ROW - 2)
    got = sorted(ids for ids, ends in pieces if ends)
    missing = [ids for ids in short if ids not in got]
    assert len(short) > 100 and not missing
    lost = np.concatenate([ids for ids, _ in pieces])
    assert sorted(lost) == sorted(np.concatenate(expected))

    summary, shards = read_corpus(str(tmp_path / "out"))
    assert len(shards) > 4
    assert summary["row_length"] == ROW and summary["vocabulary_size"] == 400
    assert summary["rows"] == counts.rows == len(rows)
    assert summary["documents"] == counts.documents == len(documents)
    assert summary["tokens"] == counts.tokens == np.sum(np.array(rows) != 1)
    assert summary["bytes"] == sum(len(document.encode()) for document in documents)
    assert not list((tmp_path / "out").glob("*.tmp"))


def test_processes_compressed_files_and_order_change_nothing(
    tmp_path, tokenizer, console, small_shards
):
    write_corpus(tmp_path / "text")
    source = f"text:{tmp_path}/text/*"
    one = prepare(source, tmp_path / "one", console, tokenizer=tokenizer)
    two = prepare(source, tmp_path / "two", console, tokenizer=tokenizer, workers=2)
    assert one == two
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    for path in (tmp_path / "text").iterdir():
        path.with_suffix(".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    packed = prepare(source, tmp_path / "packed", console, tokenizer=tokenizer)
    assert (packed.documents, packed.bytes) == (one.documents, one.bytes)


def test_a_tokenizer_is_trained_on_the_text(tmp_path, console):
    write_corpus(tmp_path / "text", 6)
    source = f"text:{tmp_path}/text/*"
    prepare(source, tmp_path / "out", console, vocabulary_size=350)
    trained = load_tokenizer(str(tmp_path / "out" / "tokenizer"))
    pieces = prepare_text.read_source(source)
    assert trained.merges == train_tokenizer((piece.text for piece in pieces), 350).merges
    assert read_corpus(str(tmp_path / "out"))[0]["vocabulary_size"] == 350


def store_dataset(name, folder, columns):
    """A dataset prepared by TFDS's own writer, of string features."""
    import tensorflow_datasets as tfds

    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        features=tfds.features.FeaturesDict({n: tfds.features.Text() for n in columns}),
        split_datasets={
            "train": tf.data.Dataset.from_tensor_slices(columns),
            "test": tf.data.Dataset.from_tensor_slices({n: c[:2] for n, c in columns.items()}),
        },
        data_dir=str(folder),
    )


def test_the_examples_of_a_tfds_dataset_are_documents(tmp_path, tokenizer, console):
    texts = ["One.\n\n Two \nthree.", " \n", b"caf\xe9", "Four.", "Five."]
    store_dataset("stories", tmp_path, {"id": list("abcde"), "text": texts})
    arguments = {"tokenizer": tokenizer, "tfds_dir": str(tmp_path)}
    documents = ["One. Two three.", "caf\ufffd", "Four.", "Five."]
    # TFDS writes a split in an order of its own.
    for split, expected in [("", documents), (":test", documents[:1]), (":train[:60%]", None)]:
        out = tmp_path / f"out{split}"
        counts = prepare(f"tfds:stories{split}", out, console, **arguments)
        loaded = load_tokenizer(tokenizer)
        got = {loaded.decode(ids) for ids, _ in unpack(read_rows(out))}
        if expected is None:
            assert got < set(documents) and 2 <= counts.documents == len(got) <= 3
        else:
            assert got == set(expected) and counts.documents == len(expected)
            assert counts.invalid == ("caf\ufffd" in expected)
    both = prepare("tfds:stories:train+test", tmp_path / "both", console, workers=2, **arguments)
    assert both.documents == 5 and len(contents(tmp_path / "both")) == 4  # a shard for each file


def test_the_text_of_a_tfds_dataset_is_its_only_string(tmp_path, tokenizer, console):
    arguments = {"tokenizer": tokenizer, "tfds_dir": str(tmp_path)}
    store_dataset("plain", tmp_path, {"sentence": ["One.", "Two."]})
    assert prepare("tfds:plain", tmp_path / "out", console, **arguments).documents == 2
    store_dataset("pairs", tmp_path, {"de": ["Eins.", "Zwei."], "en": ["One.", "Two."]})
    with pytest.raises(DataError, match="pairs has no feature 'text', and 2 .* it has de, en"):
        prepare("tfds:pairs", tmp_path / "no", console, **arguments)
    with pytest.raises(DataError, match="has no split 'dev'; it has"):
        prepare("tfds:plain:dev", tmp_path / "no", console, **arguments)
    assert not (tmp_path / "no").exists()
    (path,) = tmp_path.glob("plain/1.0.0/*train*")
    path.write_bytes(path.read_bytes()[:-3] + b"???")
    with pytest.raises(DataError, match="plain-train.* cannot be read .*Prepare the dataset anew"):
        prepare("tfds:plain", tmp_path / "broken", console, **arguments)


def test_builtin_is_pythons_manual(tmp_path, tokenizer, console):
    counts = prepare("builtin", tmp_path / "out", console, tokenizer=tokenizer)
    assert counts.documents == len(TOPICS)
    assert counts.bytes > 350_000


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_run_is_resumed(
    tmp_path, tokenizer, console, small_shards, monkeypatch, workers
):
    write_corpus(tmp_path / "text")
    source = f"text:{tmp_path}/text/*"
    prepare(source, tmp_path / "whole", console, tokenizer=tokenizer)
    write_shard, written = prepare_text._write_shard, []

    def interrupted(number, *arguments):
        if number == 3:
            # As if killed in the middle of a shard.
            (tmp_path / "out" / "shard-00003.tfrecord.tmp").write_bytes(b"half of it")
            raise KeyboardInterrupt
        return write_shard(number, *arguments)

    monkeypatch.setattr(prepare_text, "_write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path / "out", console, tokenizer=tokenizer)
    monkeypatch.undo()
    monkeypatch.setattr(prepare_text, "SHARD_BYTES", (1 << 13, 1 << 13))
    with pytest.raises(DataError, match="unfinished run: finish it with --resume"):
        read_corpus(str(tmp_path / "out"))
    with pytest.raises(DataError, match="holds an earlier run. Add --resume"):
        prepare(source, tmp_path / "out", console, tokenizer=tokenizer)
    if workers == 1:

        def noted(number, *arguments):
            written.append(number)
            return write_shard(number, *arguments)

        monkeypatch.setattr(prepare_text, "_write_shard", noted)
    counts = prepare(
        source, tmp_path / "out", console, tokenizer=tokenizer, resume=True, workers=workers
    )
    if workers == 1:
        assert written and min(written) == 3
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    summary, _ = read_corpus(str(tmp_path / "out"))
    assert summary["rows"] == counts.rows == read_corpus(str(tmp_path / "whole"))[0]["rows"]


def test_another_run_is_not_resumed(tmp_path, tokenizer, console):
    write_corpus(tmp_path / "text", 3)
    source = f"text:{tmp_path}/text/*"
    prepare(source, tmp_path / "out", console, tokenizer=tokenizer)
    before = contents(tmp_path / "out")
    with pytest.raises(DataError, match="row_length was 64 and is 32"):
        prepare(source, tmp_path / "out", console, tokenizer=tokenizer, row_length=32, resume=True)
    (tmp_path / "text" / "000.txt").write_text("something else")
    with pytest.raises(DataError, match=r"files was .*000.txt.* and is .*000.txt"):
        prepare(source, tmp_path / "out", console, tokenizer=tokenizer, resume=True)
    assert contents(tmp_path / "out") == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="other is not empty"):
        prepare(source, tmp_path / "other", console, tokenizer=tokenizer)


def test_blank_text_and_missing_text_are_errors(tmp_path, tokenizer, console):
    (tmp_path / "blank.txt").write_text("\n \n\n")
    with pytest.raises(DataError, match="has no text: its files are empty or blank"):
        prepare(f"text:{tmp_path}/blank.txt", tmp_path / "a", console, tokenizer=tokenizer)
    with pytest.raises(DataError, match="names no file"):
        prepare(f"text:{tmp_path}/*.none", tmp_path / "b", console, tokenizer=tokenizer)
    with pytest.raises(DataError, match="'folder:x' is not a source; .* builtin, text, tfds"):
        prepare("folder:x", tmp_path / "c", console, tokenizer=tokenizer)
    for both in ({}, {"tokenizer": tokenizer, "vocabulary_size": 400}):
        with pytest.raises(DataError, match="either --vocab_size=N .* or --tokenizer=DIR"):
            prepare("builtin", tmp_path / "d", console, **both)
    assert not (tmp_path / "b").exists() and not (tmp_path / "d").exists()


@pytest.mark.parametrize("kwargs", [{"vocabulary_size": 260}, {"tokenizer": "/nowhere"}])
def test_a_mistake_leaves_no_folder_that_stands_in_the_way(tmp_path, tokenizer, console, kwargs):
    with pytest.raises(DataError, match="--vocab_size=260 is too small|/nowhere has no tokenizer"):
        prepare("builtin", tmp_path / "out", console, **kwargs)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("full", ["shard-00000.tfrecord.tmp", "shard-00000.json.tmp"])
def test_a_full_disk_is_a_line_and_is_resumed(
    tmp_path, tokenizer, console, small_shards, workers, full
):
    write_corpus(tmp_path / "text", 3)
    source, out = f"text:{tmp_path}/text/*", tmp_path / "out"
    prepare(source, out, console, tokenizer=tokenizer)
    whole = contents(out)
    for number in (0, 1):
        (out / f"shard-{number:05}.json").unlink()
    (out / full).symlink_to("/dev/full")  # written as on a disk without room
    again = {"tokenizer": tokenizer, "resume": True, "workers": workers}
    with pytest.raises(DataError, match="out cannot be written .*No space left on device"):
        prepare(source, out, console, **again)
    (out / full).unlink()
    prepare(source, out, console, **again)
    assert contents(out) == whole


def test_invalid_bytes_are_counted_and_told(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9 au lait \xff\n\nok")
    (tmp_path / "b.txt").write_bytes(b"fine")
    with open(tmp_path / "log", "w+") as file:
        counts = prepare(
            f"text:{tmp_path}/*.txt",
            tmp_path / "out",
            Console(file=file, width=300),
            tokenizer=tokenizer,
        )
        file.seek(0)
        log = file.read()
    assert counts.invalid == 2
    assert counts.invalid_files == {f"{tmp_path}/a.txt": 2}
    assert "2 characters in 1 files are no UTF-8" in log and "a.txt: 2" in log


def run_tool(*arguments):
    return subprocess.run(
        [sys.executable, "tools/prepare.py", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_the_tool(tmp_path):
    write_corpus(tmp_path / "text", 3)
    arguments = (
        "--modality=text",
        f"--data=text:{tmp_path}/text/*",
        f"--out={tmp_path}/out",
        "--vocab_size=300",
        "--row_length=64",
    )
    done = run_tool(*arguments)
    assert done.returncode == 0, done.stderr
    assert "vocabulary 300" in done.stdout
    assert json.loads((tmp_path / "out" / "corpus.json").read_text())["row_length"] == 64
    assert read_rows(tmp_path / "out")
    again = run_tool(*arguments)
    assert again.returncode == 1
    assert again.stderr.strip().split("\n")[-1].startswith("error: prepare: --out=")


def test_counts_add_up():
    one = Counts(1, 2, 3, 4, 5, {"a": 5})
    one.add(Counts(10, 20, 30, 40, 50, {"a": 1, "b": 49}))
    assert dataclasses.astuple(one) == (11, 22, 33, 44, 55, {"a": 6, "b": 49})
