"""Texts without labels: a text a line, tables, documents, and what is refused by name."""

import pytest

import d2v_tf
from d2v_tf.data.labelled_sources import open_labelled
from d2v_tf.data.labelled_text import Columns
from d2v_tf.data.reading import DataError
from d2v_tf.data.tokenization import train_tokenizer
from d2v_tf.evaluation.examples import open_examples, open_glue_examples
from d2v_tf.evaluation.measure import measure
from d2v_tf.evaluation.predictions import predict_examples
from tests.interop.tiny import make_backbone

UNLABELLED = Columns(label=None)
PAIRS = Columns("sentence1", "sentence2", None)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a cat sat on a mat", "dogs bark at night"], 275)


@pytest.fixture(scope="module")
def task(tokenizer):
    backbone = make_backbone(
        "text", vocabulary_size=tokenizer.vocabulary_size, max_sequence_length=24
    )
    return d2v_tf.Data2VecTextClassifier(backbone, 2, class_names=("no", "yes"))


def texts_of(examples):
    return {name: examples.read(i) for i, name in enumerate(examples.names)}


def test_a_text_a_line(task, tokenizer, tmp_path):
    (tmp_path / "t.csv").write_bytes(b"a cat, and\ta dog\r\n\n \ncaf\xe9\nlast")
    spec, told = f"text:{tmp_path}/t.csv", []
    options = {"columns": UNLABELLED, "max_bad": 0.5, "warn": told.append}
    examples = open_examples(task.backbone, spec, **options)
    first, last = f"{tmp_path}/t.csv, line 1", f"{tmp_path}/t.csv, line 5"
    assert texts_of(examples) == {first: "a cat, and\ta dog", last: "last"}
    assert told == [f"{tmp_path}/t.csv, line 4 is skipped: byte 4 is not UTF-8"]
    said = dict(predict_examples(task, tokenizer.in_graph(), examples))
    assert list(said) == [first, last] and said[first]["label"] in ("no", "yes")
    with pytest.raises(DataError, match="has no labels to measure with"):
        measure(task, tokenizer.in_graph(), examples)
    with pytest.raises(DataError, match="text:.*t.csv has no labels, and some are needed here"):
        open_labelled(spec)
    with pytest.raises(DataError, match="nothere.txt cannot be read"):
        open_examples(task.backbone, f"text:{tmp_path}/nothere.txt", **options)


def test_a_table_without_labels(task, tmp_path):
    (tmp_path / "test.tsv").write_text("index\tsentence1\tsentence2\n0\ta\tb\n1\tbad\n2\tc\td\n")
    spec = f"table:{tmp_path}/test.tsv"
    options = {"pairs": True, "max_bad": 0.5, "warn": lambda line: None}
    examples = open_examples(task.backbone, spec, columns=PAIRS, **options)
    assert texts_of(examples) == {
        f"{tmp_path}/test.tsv, line 2": ("a", "b"),
        f"{tmp_path}/test.tsv, line 4": ("c", "d"),
    }
    numbered = open_examples(task.backbone, spec, columns=Columns(1, label=None), max_bad=0.5)
    assert list(texts_of(numbered).values()) == ["sentence1", "a", "c"]
    with pytest.raises(DataError, match="needs columns sentence, named in its first line"):
        open_examples(task.backbone, spec, columns=UNLABELLED)


def test_documents_anywhere_in_a_folder(task, tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "a.txt").write_text("one\ntwo")
    (tmp_path / "deep" / "er" / "b.txt").write_text("three")
    examples = open_examples(task.backbone, f"folder:{tmp_path}", columns=UNLABELLED)
    expected = {f"{tmp_path}/a.txt": "one two", f"{tmp_path}/deep/er/b.txt": "three"}
    assert texts_of(examples) == expected
    with pytest.raises(DataError, match="has no documents: a subfolder of .txt files for each"):
        open_examples(task.backbone, f"folder:{tmp_path}")


@pytest.mark.parametrize("spec", ["reviews/a.txt", "a.TXT", "/nowhere", "notes.jsonl"])
def test_a_mistyped_path_is_no_text(task, spec):
    with pytest.raises(DataError, match=f"{spec} looks like a path, and there is no such file"):
        open_examples(task.backbone, spec)


@pytest.mark.parametrize("text", ["great", "either/or is no path", "What a film.", "see a.txt now"])
def test_a_text_is_no_path(task, text):
    assert texts_of(open_examples(task.backbone, text)) == {text: text}


def test_a_folder_is_named_by_its_source(task, tmp_path):
    with pytest.raises(DataError, match=f"Name the documents in a folder by folder:{tmp_path}"):
        open_examples(task.backbone, str(tmp_path))


def test_a_model_of_pairs_is_given_pairs_and_another_is_not(task, tmp_path):
    (tmp_path / "t.txt").write_text("a text\n")
    (tmp_path / "t.tsv").write_text("sentence1\tsentence2\na\tb\n")
    single = {"columns": UNLABELLED, "pairs": True}
    for spec in ("a text", f"{tmp_path}/t.txt", f"text:{tmp_path}/t.txt"):
        with pytest.raises(DataError, match="fine-tuned on pairs of texts, and .* no second ones"):
            open_examples(task.backbone, spec, **single)
    with pytest.raises(DataError, match="fine-tuned on single texts, and .*t.tsv has pairs"):
        open_examples(task.backbone, f"table:{tmp_path}/t.tsv", columns=PAIRS, pairs=False)
    with pytest.raises(DataError, match="fine-tuned on pairs of texts, and .*SST-2/dev.tsv has no"):
        (tmp_path / "SST-2").mkdir()
        (tmp_path / "SST-2" / "dev.tsv").write_text("sentence\tlabel\na\t1\n")
        open_glue_examples("SST-2", f"folder:{tmp_path}", pairs=True)


def test_too_many_bad_lines_name_the_tools_own_flag(task, tmp_path):
    (tmp_path / "RTE").mkdir()
    rows = ["index\tsentence1\tsentence2\tlabel", "0\ta\tb\tentailment", "1\tbad"]
    (tmp_path / "RTE" / "dev.tsv").write_text("\n".join(rows) + "\n")
    columns = Columns("sentence1", "sentence2")
    for open_bad in (
        lambda **options: open_examples(
            task.backbone, f"table:{tmp_path}/RTE/dev.tsv", columns=columns, **options
        ),
        lambda **options: open_glue_examples("RTE", f"folder:{tmp_path}", **options)[0],
    ):
        with pytest.raises(DataError, match="at most 1% may. Remove them, or raise --max_bad.$"):
            open_bad(warn=lambda line: None)
        assert len(open_bad(max_bad=0.5, warn=lambda line: None).names) == 1
