"""Archives unpacked and arranged, of what is wanted alone."""

import tarfile

import numpy as np
import pytest
import soundfile
from rich.console import Console

from d2v_tf.data.audio_tables import read_table
from d2v_tf.data.reading import DataError
from d2v_tf.training.reproduction_sets import arrange_sets, write_words

QUIET = Console(quiet=True)


@pytest.fixture
def archives(tmp_path):
    """An archive of single digits of two speakers."""
    folder = tmp_path / "made" / "spoken_digits"
    rng = np.random.default_rng(0)
    for split, takes in (("train", (5, 6)), ("test", (0,))):
        (folder / split).mkdir(parents=True)
        for speaker in ("ann", "bob"):
            for digit in (0, 3, 7):
                for take in takes:
                    path = folder / split / f"{digit}_{speaker}_{take}.wav"
                    soundfile.write(path, 0.1 * rng.standard_normal(800), 8000)
    (tmp_path / "archives").mkdir()
    with tarfile.open(tmp_path / "archives" / "spoken_digits.tar.gz", "w:gz") as tar:
        tar.add(folder, "spoken_digits")
    return tmp_path / "archives"


def test_digits_are_named_and_connected(archives, tmp_path):
    data = tmp_path / "data"
    for _ in range(2):  # the second time there is nothing to do
        arrange_sets(str(archives), str(data), lambda name: name == "connected", QUIET)
    assert {path.name for path in data.iterdir()} == {"spoken_digits", "connected"}
    table = read_table(f"{data}/spoken_digits/digits.tsv?split=test")
    assert len(table.paths) == 6 and table.class_names == ("seven", "three", "zero")
    assert len((data / "connected" / "test.wrd").read_text().splitlines()) == 200
    assert not list(data.glob(".*"))


def test_archives_that_are_missing_or_broken(archives, tmp_path):
    data = str(tmp_path / "data")
    with pytest.raises(DataError, match="glue is missing. Name the archives by --archives"):
        arrange_sets(None, data, lambda name: name == "glue", QUIET)
    with pytest.raises(DataError, match="glue.tar.gz cannot be unpacked"):
        arrange_sets(str(archives), data, lambda name: name == "glue", QUIET)
    (archives / "glue.tar.gz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="glue.tar.gz cannot be unpacked"):
        arrange_sets(str(archives), data, lambda name: name == "glue", QUIET)
    assert list((tmp_path / "data").iterdir()) == []


def test_each_word_once(tmp_path):
    (tmp_path / "text").write_text("b a\na c\n")
    write_words(tmp_path / "text", tmp_path / "words")
    assert (tmp_path / "words").read_text() == "a\nb\nc\n"
