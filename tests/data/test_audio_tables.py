"""Tables of audio files: layouts that users have, and what is said where one cannot be read."""

import tarfile

import numpy as np
import pytest

from d2v_tf.data.audio_tables import read_table
from d2v_tf.data.reading import DataError
from d2v_tf.data.speech_sources import open_speech_source
from tests.data.audio import RATE, write_tree


@pytest.fixture
def folder(tmp_path):
    """Files a/0000.wav, b/0001.wav, a/0002.wav of 0.1, 0.2, 0.3 s."""
    write_tree(tmp_path, [0.1, 0.2, 0.3], classes=("a", "b"))
    return tmp_path


def write(folder, text, name="labels.tsv"):
    (folder / name).write_bytes(text.encode())
    return str(folder / name)


CLASSES = "path\tclass\tfold\na/0000.wav\train\t1\nb/0001.wav\tdog bark\t2\na/0002.wav\train\t3\n"
TAGS = "path\ttags\na/0000.wav\twind, rain\nb/0001.wav\t\na/0002.wav\twind\n"


def test_a_class_each(folder):
    table = read_table(write(folder, CLASSES))
    assert table.paths == [str(folder / p) for p in ("a/0000.wav", "b/0001.wav", "a/0002.wav")]
    assert table.class_names == ("dog bark", "rain") and table.labels.tolist() == [1, 0, 1]
    assert table.tags is None


def test_rows_are_chosen_by_a_columns_values(folder):
    table = read_table(write(folder, CLASSES) + "?fold=1,3")
    assert [p[-8:] for p in table.paths] == ["0000.wav", "0002.wav"]
    assert table.class_names == ("rain",) and table.labels.tolist() == [0, 0]
    table = read_table(write(folder, CLASSES) + "?fold=1,2&class=class")
    assert table.labels.tolist() == [1, 0]


def test_several_tags_or_none(folder):
    table = read_table(write(folder, TAGS))
    assert table.tag_names == ("rain", "wind") and table.labels is None
    np.testing.assert_array_equal(table.tags, [[True, True], [False, False], [False, True]])
    # With commas between the columns, quotes hold those of a cell.
    text = 'filename, labels, other\na/0000.wav, "wind,rain", x\nb/0001.wav, "", y\n'
    table = read_table(write(folder, text, "labels.csv"))
    np.testing.assert_array_equal(table.tags, [[True, True], [False, False]])


def test_windows_lines_byte_order_mark_blank_lines_and_quotation_marks(folder):
    text = '\ufeffpath\tclass\r\na/0000.wav\tthe "rain\r\n\r\nb/0001.wav\t\r\n'
    table = read_table(write(folder, text))
    assert table.class_names == ('the "rain',) and table.labels.tolist() == [0, -1]


def test_columns_and_the_files_folder_may_be_named(folder):
    (folder / "meta").mkdir()
    text = "clip,what,take\n0000.wav,rain,A\n0002.wav,wind,B\n"  # ESC-50's layout
    spec = write(folder / "meta", text, "t.csv") + "?path=clip&class=what&root=../a"
    table = read_table(spec)
    assert table.paths == [str(folder / "a" / "0000.wav"), str(folder / "a" / "0002.wav")]
    assert table.class_names == ("rain", "wind")


@pytest.mark.parametrize(
    ("text", "query", "message"),
    [
        ("", "", "is empty. Its first line names the columns, path and class or tags"),
        ("path\tclass\n", "", "names no files below its first line"),
        ("a/0000.wav\train\n", "", "no column 'path'; its first line names a/0000.wav, rain. Name"),
        ("path\tkind\na/0000.wav\tx\n", "", r"no column 'class' or 'tags'.*\?class=COLUMN', or"),
        (CLASSES, "?fold", "has 'fold' behind its question mark, which must be COLUMN=VALUE"),
        (CLASSES, "?fold=", "has 'fold=' behind its question mark"),
        (CLASSES, "?fold=5", "has no row with fold=5; there is 1, 2, 3"),
        (CLASSES, "?fald=1", "no column 'fald' to choose by; its first line names path, class, f"),
        (CLASSES, "?class=kind", r"no column 'kind' \(class=kind\); its first line names path"),
        (CLASSES + "x\ty\n", "", "line 5 has 2 cells for 3 columns, between tabs"),
        (CLASSES + "a/0000.wav\ty\t1\n", "", "names a/0000.wav in line 2 and in line 5. A file"),
        ("path\tclass\nc.wav\tx\n", "", r"names c.wav first, and there is no .*/c.wav. .*\?root="),
    ],
)
def test_what_is_wrong_is_named(folder, text, query, message):
    with pytest.raises(DataError, match=message):
        read_table(write(folder, text) + query)


def test_no_table_is_named(folder):
    with pytest.raises(DataError, match="nowhere.tsv cannot be read .No such file"):
        read_table(f"{folder}/nowhere.tsv?fold=1")
    with pytest.raises(DataError, match="0000.wav is not a table of text"):
        read_table(f"{folder}/a/0000.wav")


def test_a_table_is_a_source(folder):
    source = open_speech_source("table:" + write(folder, CLASSES) + "?fold=1,2")
    assert source.name.endswith("labels.tsv?fold=1,2") and source.has_labels
    assert source.class_names == {"class": ("dog bark", "rain")}
    assert source.labels["class"].tolist() == [1, 0]
    assert source.lengths.tolist() == [RATE // 10, RATE // 5]
    assert len(source.read(1)) == RATE // 5
    (folder / "a" / "0000.wav").unlink()
    (folder / "b" / "0001.wav").write_text("hello")
    tagged = open_speech_source("table:" + write(folder, TAGS))
    assert not tagged.has_labels and tagged.tag_names == ("rain", "wind")
    assert sorted(tagged.problems) == [0, 1] and tagged.tags.shape == (3, 2)


def test_the_real_table(shared_data, tmp_path):
    with tarfile.open(shared_data / "esc10.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    table = f"table:{tmp_path}/esc10/labels.tsv"
    source = open_speech_source(table + "?fold=1,2,3")
    assert source.num_examples == 240 and len(source.class_names["class"]) == 10
    assert np.bincount(source.labels["class"]).tolist() == [24] * 10
    assert open_speech_source(table + "?fold=4").class_names == source.class_names
