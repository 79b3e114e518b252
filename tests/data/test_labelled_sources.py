"""Labelled texts: what is read from tables, folders and TFDS, and what is refused by name."""

import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_array_equal

from d2v_tf.data.labelled_sources import Columns, open_labelled, read_labelled
from d2v_tf.data.reading import DataError

MANY = [f"text {i}\t{i % 2}" for i in range(200)]


def write(path, *lines):
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return str(path)


def test_a_table_is_read_as_it_stands(tmp_path):
    path = write(
        tmp_path / "a.tsv",
        "\ufefflabel\tid\tsentence",
        'B\t7\ta "quoted one',
        "A\t8\tnext line\u0085and \u2028 are \x0b text ",
        "B\t9\tends with a return\r",
    )
    labelled = read_labelled(path)
    assert labelled.sentences == [
        'a "quoted one',
        "next line\u0085and \u2028 are \x0b text ",
        "ends with a return",
    ]
    assert labelled.class_names == ("A", "B")
    assert labelled.labels.dtype == np.int64
    assert_array_equal(labelled.labels, [1, 0, 1])
    assert labelled.second_sentences is None
    assert (labelled.num_examples, labelled.num_classes) == (3, 2)


def test_columns_are_named_or_numbered(tmp_path):
    path = write(tmp_path / "a.tsv", "x\tpremise\ty\thypothesis", "1\tp\tyes\th", "2\tq\tno\ti")
    pair = read_labelled(path, Columns("premise", "hypothesis", "y"))
    assert pair.sentences == ["p", "q"] and pair.second_sentences == ["h", "i"]
    assert pair.class_names == ("no", "yes") and pair.labels.tolist() == [1, 0]
    numbered = read_labelled(path, Columns(sentence=3, label=0))
    assert numbered.sentences == ["hypothesis", "h", "i"]  # no line of names
    assert numbered.class_names == ("1", "2", "x")
    mixed = read_labelled(path, Columns(sentence="premise", label=0))
    assert mixed.sentences == ["p", "q"]


def test_whole_numbers_are_classes_in_their_order(tmp_path):
    labels = [10, 2, 0, -1, 2]
    path = write(tmp_path / "a.tsv", "sentence\tlabel", *(f"t\t{n}" for n in labels))
    labelled = read_labelled(path)
    assert labelled.class_names == ("-1", "0", "2", "10")
    assert labelled.labels.tolist() == [3, 2, 1, 0, 2]


def test_scores_are_numbers(tmp_path):
    path = write(tmp_path / "a.tsv", "sentence\tlabel", "a\t4.5", "b\t-1", "c\t1e-2")
    labelled = read_labelled(path, Columns(regression=True))
    assert labelled.labels.dtype == np.float32
    assert_array_equal(labelled.labels, np.float32([4.5, -1, 0.01]))
    assert labelled.class_names is None and labelled.num_classes == 1
    for bad in ("nan", "inf", "good", ""):
        write(tmp_path / "a.tsv", "sentence\tlabel", f"a\t{bad}")
        with pytest.raises(DataError, match=rf"line 2, \"'{bad}' is not a number\""):
            read_labelled(path, Columns(regression=True))


def test_scores_taken_for_classes_are_refused(tmp_path):
    lines = [f"t\t{i / 10:.3f}" for i in range(50)]
    path = write(tmp_path / "a.tsv", "sentence\tlabel", *lines)
    with pytest.raises(DataError, match="50 classes in 50 examples .such as '0.000'.. Is label a"):
        read_labelled(path)
    assert read_labelled(path, Columns(regression=True)).num_examples == 50


def test_a_csv_file_has_quotes_and_commas(tmp_path):
    path = write(
        tmp_path / "a.CSV", "sentence,label", '"one, ""two""', 'lines",A', "a 'b\tc,B", "", "d,A"
    )
    labelled = read_labelled(path)
    assert labelled.sentences == ['one, "two"\nlines', "a 'b\tc", "d"]
    assert labelled.labels.tolist() == [0, 1, 0]
    with pytest.raises(DataError, match="cannot be read as CSV"):
        read_labelled(write(tmp_path / "b.csv", "sentence,label", '"open,A'))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"c", "1 columns where the first line has 2"),
        (b"c\td\tA", "3 columns where the first line has 2"),
        (b"caf\xe9\tA", "byte 4 is not UTF-8"),
        (b"c\t ", "it has no label"),
    ],
)
def test_a_few_bad_lines_are_left_out_and_named(tmp_path, line, problem):
    path, told = tmp_path / "a.tsv", []
    lines = [b"sentence\tlabel", *(text.encode() for text in MANY)]
    lines.insert(5, line)
    path.write_bytes(b"\n".join(lines) + b"\n")
    labelled = read_labelled(str(path), warn=told.append)
    assert labelled.sentences == [text.split("\t")[0] for text in MANY]
    assert told == [f"{path}, line 6 is skipped: {problem}"]
    with pytest.raises(DataError, match=rf"1 of 201 examples .*line 6, \"{problem}\".; at most 0%"):
        read_labelled(str(path), max_bad=0.0)


def test_classes_of_other_names(tmp_path):
    path = write(tmp_path / "a.tsv", "sentence\tlabel", "a\t1", "b\t0", "c\t1")
    labelled = read_labelled(path, class_of={"0": "no", "1": "yes"})
    assert labelled.class_names == ("no", "yes") and labelled.labels.tolist() == [1, 0, 1]
    with pytest.raises(DataError, match=r"line 3, \"label '0' is not one of 1\""):
        read_labelled(path, class_of={"1": "yes"})


def test_another_set_takes_the_training_sets_numbers(tmp_path):
    dev = read_labelled(write(tmp_path / "a.tsv", "sentence\tlabel", "x\tC", "y\tB", "z\tC"))
    matched = dev.with_classes(("C", "A", "B"))
    assert matched.class_names == ("C", "A", "B") and matched.labels.tolist() == [0, 2, 0]
    assert matched.sentences == dev.sentences
    with pytest.raises(DataError, match="a.tsv has classes that the training set lacks: C. It has"):
        dev.with_classes(("A", "B"))
    with pytest.raises(DataError, match="has classes where the training set has scores"):
        dev.with_classes(None)
    scores = read_labelled(
        write(tmp_path / "b.tsv", "sentence\tlabel", "x\t1"), Columns(regression=True)
    )
    assert scores.with_classes(None) is scores
    with pytest.raises(DataError, match="has scores where the training set has classes"):
        scores.with_classes(("A",))


def test_some_examples_are_kept(tmp_path):
    path = write(tmp_path / "a.tsv", "a\tb\ty", "1\t2\tn", "3\t4\tm", "5\t6\tn")
    kept = read_labelled(path, Columns("a", "b", "y")).only(np.array([True, False, True]))
    assert kept.sentences == ["1", "5"] and kept.second_sentences == ["2", "6"]
    assert kept.labels.tolist() == [1, 1] and kept.class_names == ("m", "n")


def test_a_table_that_does_not_fit_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match="none.tsv cannot be read"):
        read_labelled(f"{tmp_path}/none.tsv")
    for lines, columns, message in [
        ([], Columns(), "needs columns sentence and label, named in its .* line. It has no line"),
        ([], Columns(0, label=1), "has no examples"),
        (["text\tlabel", "a\tb"], Columns(), "needs columns sentence and label, .* It has text, l"),
        (["sentence\tlabel"], Columns(), "has no examples"),
        (["a\tb"], Columns(0, label=2), "has no column 2: its first line has 2, counted from 0"),
        (["a\tb"], Columns(-1, label=1), "has no column -1"),
    ]:
        with pytest.raises(DataError, match=message):
            read_labelled(write(tmp_path / "a.tsv", *lines), columns)


# Folders of documents.


def test_subfolders_are_classes_and_lines_are_joined(tmp_path):
    for name, text in [
        ("pos/2.txt", "\ufeffa good\n one .\n\n again\n"),
        ("pos/10.txt", "b"),
        ("neg/1.txt", "c"),
        ("neg/notes.md", "no document"),
        ("readme.txt", "no class"),
    ]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    labelled = open_labelled(f"folder:{tmp_path}")
    assert labelled.sentences == ["c", "b", "a good one . again"]
    assert labelled.class_names == ("neg", "pos") and labelled.labels.tolist() == [0, 1, 1]
    (tmp_path / "neg" / "0.txt").write_bytes(b"caf\xe9")
    (tmp_path / "pos" / "9.txt").write_bytes(b" \n")
    told = []
    again = open_labelled(f"folder:{tmp_path}", max_bad=0.5, warn=told.append)
    assert again.sentences == labelled.sentences
    assert told == [
        f"{tmp_path}/neg/0.txt is skipped: byte 4 is not UTF-8",
        f"{tmp_path}/pos/9.txt is skipped: it is blank",
    ]
    with pytest.raises(DataError, match=r"1 of 5 examples .*neg/0.txt"):
        open_labelled(f"folder:{tmp_path}", warn=told.append)


def test_what_is_no_source_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match="'tabel:x' is not a source; .* Did you mean table"):
        open_labelled("tabel:x")
    with pytest.raises(DataError, match="folder:/nowhere is not a folder"):
        open_labelled("folder:/nowhere")
    with pytest.raises(DataError, match="has no documents: .* A table is read by table:FILE"):
        open_labelled(f"folder:{tmp_path}")


# TFDS.


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    """A dataset prepared by TFDS's own writer, with a class, a score, and none for the last."""
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {
            "text": tfds.features.Text(),
            "other": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=["yes", "no"]),
            "score": np.float32,
            "stars": np.int64,
        }
    )
    rows = {
        "text": ["naïve ", "b", "c"],
        "other": ["x", "y", "z"],
        "label": np.array([1, 0, -1]),
        "score": np.float32([0.5, 1.5, -2]),
        "stars": np.array([5, 10, 5]),
    }
    folder = tmp_path_factory.mktemp("tfds")
    tfds.dataset_builders.store_as_tfds_dataset(
        name="reviews",
        version="1.0.0",
        features=features,
        split_datasets={"train": tf.data.Dataset.from_tensor_slices(rows)},
        data_dir=str(folder),
    )
    return str(folder)


def test_tfds_brings_texts_classes_and_their_names(tfds_dir):
    told = []
    labelled = open_labelled(
        "tfds:reviews", Columns("text", "other"), tfds_dir, max_bad=0.5, warn=told.append
    )
    assert labelled.sentences == ["naïve ", "b"] and labelled.second_sentences == ["x", "y"]
    assert labelled.class_names == ("yes", "no") and labelled.labels.tolist() == [1, 0]
    assert told == ["record 2 is skipped: it has no label"]
    part = open_labelled("tfds:reviews:train[1:2]", Columns("text"), tfds_dir)
    assert part.sentences == ["b"] and part.class_names == ("yes", "no")


def test_tfds_brings_scores_and_classes_without_names(tfds_dir):
    scores = open_labelled(
        "tfds:reviews", Columns("text", label="score", regression=True), tfds_dir
    )
    assert_array_equal(scores.labels, np.float32([0.5, 1.5, -2]))
    stars = open_labelled("tfds:reviews", Columns("text", label="stars"), tfds_dir)
    assert stars.class_names == ("5", "10") and stars.labels.tolist() == [0, 1, 0]


def test_tfds_without_such_features_is_refused_by_name(tfds_dir):
    with pytest.raises(DataError, match="has no feature sentence; it has .*text"):
        open_labelled("tfds:reviews", tfds_dir=tfds_dir)
    with pytest.raises(DataError, match="has numbers as score, no classes: it is a regression"):
        open_labelled("tfds:reviews", Columns("text", label="score"), tfds_dir)
