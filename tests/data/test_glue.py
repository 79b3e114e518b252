"""GLUE's tables and TFDS' copies of them give the same."""

import tarfile

import numpy as np
import pytest
import tensorflow as tf

from d2v_tf.data.glue import GLUE_TASKS, glue_task, open_glue
from d2v_tf.data.reading import DataError
from d2v_tf.finetuning.metrics import METRICS

# As GLUE's own distribution has them: the lines of names, and two examples of each task, whose
# texts are `a`, `b` and `c`, `d`.
TABLES = {
    "CoLA/train": "gj04\t1\t\ta\ngj04\t0\t*\tc\n",
    "SST-2/train": "sentence\tlabel\na \t1\nc \t0\n",
    "MRPC/train": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    "1\t7\t8\ta\tb\n0\t9\t1\tc\td\n",
    "QQP/train": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    "1\t2\t3\ta\tb\t1\n4\t5\t6\tc\td\t0\n",
    "STS-B/train": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2"
    "\tscore\n0\tg\tf\t2012\t1\tn\tn\ta\tb\t5.000\n1\tg\tf\t2012\t1\tn\tn\tc\td\t3.8\n",
    "MNLI/train": "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
    "sentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label\n"
    "0\t1\t1n\tfiction\t(\t(\t(\t(\ta\tb\tneutral\tneutral\n"
    "1\t2\t2c\tfiction\t(\t(\t(\t(\tc\td\tcontradiction\tcontradiction\n",
    "QNLI/train": "index\tquestion\tsentence\tlabel\n0\ta\tb\tnot_entailment\n"
    "1\tc\td\tentailment\n",
    "RTE/train": "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tnot_entailment\n"
    "1\tc\td\tentailment\n",
    "WNLI/train": "index\tsentence1\tsentence2\tlabel\n0\ta\tb\t1\n1\tc\td\t0\n",
}
# In TFDS' numbers, from its documentation.
LABELS = {
    "cola": [1, 0],
    "sst2": [1, 0],
    "mrpc": [1, 0],
    "qqp": [1, 0],
    "stsb": [5.0, 3.8],
    "mnli": [1, 2],
    "qnli": [1, 0],
    "rte": [1, 0],
    "wnli": [1, 0],
}
SINGLE = ("cola", "sst2")


@pytest.fixture(scope="module")
def glue(tmp_path_factory):
    folder = tmp_path_factory.mktemp("glue")
    for name, text in TABLES.items():
        (folder / name).parent.mkdir()
        (folder / f"{name}.tsv").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    """The same examples as TFDS' own builders declare them."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tfds")
    for name, labels in LABELS.items():
        builder = tfds.builder(f"glue/{name}", data_dir=str(folder))
        features = builder.info.features
        texts = [f for f in features if f not in ("idx", "label")]
        texts.sort(key=list(builder.builder_config.text_features).index)
        rows = {"idx": np.arange(2, dtype="int32"), "label": np.array(labels)}
        rows["label"] = rows["label"].astype(features["label"].np_dtype)
        for feature, column in zip(texts, [["a", "c"], ["b", "d"]], strict=False):
            rows[feature] = column
        dataset = tf.data.Dataset.from_tensor_slices(rows)
        split = next(iter(GLUE_TASKS[name].evaluation_splits.values()))
        tfds.dataset_builders.store_as_tfds_dataset(
            name="glue",
            config=name,
            version=str(builder.version),
            features=features,
            split_datasets={"train": dataset.take(2), split: dataset.take(1)},
            data_dir=str(folder),
        )
    return str(folder)


@pytest.mark.parametrize("source", ["folder", "tfds"])
@pytest.mark.parametrize("name", LABELS)
def test_every_task_is_read_alike_from_tables_and_from_tfds(name, source, glue, tfds_dir):
    task = GLUE_TASKS[name]
    spec = f"folder:{glue}" if source == "folder" else "tfds:glue"
    labelled = open_glue(name, spec, tfds_dir=tfds_dir)
    assert [text.strip() for text in labelled.sentences] == ["a", "c"]
    assert labelled.second_sentences == (None if name in SINGLE else ["b", "d"])
    np.testing.assert_allclose(labelled.labels, LABELS[name], rtol=1e-6)
    assert labelled.class_names == task.class_names
    assert (name == "stsb") == (labelled.class_names is None)
    if source == "tfds":
        split = next(iter(task.evaluation_splits))
        assert open_glue(name, spec, split, tfds_dir=tfds_dir).num_examples == 1


def test_class_names_and_their_order_are_those_of_tfds():
    import tensorflow_datasets as tfds

    configs = {config.name: config for config in tfds.builder_cls("glue").BUILDER_CONFIGS}
    for name, task in GLUE_TASKS.items():
        expected = configs[name].label_classes
        assert task.class_names == (expected and tuple(expected))


def test_the_metrics_are_glues():
    table = {"cola": ("matthews",), "mrpc": ("accuracy", "f1"), "qqp": ("accuracy", "f1")}
    table["stsb"] = ("pearson", "spearman")
    for name, task in GLUE_TASKS.items():
        assert task.metrics == table.get(name, ("accuracy",))
        assert set(task.metrics) <= set(METRICS)


def test_mnli_is_measured_twice(glue):
    header, *rows = TABLES["MNLI/train"].splitlines()
    # dev has the five annotators' labels.
    header = header.replace("\tlabel1", "".join(f"\tlabel{i}" for i in range(1, 6)))
    for split, row in zip(("dev_matched", "dev_mismatched"), rows, strict=True):
        *fields, gold = row.split("\t")
        line = "\t".join([*fields, "x", "x", "x", "x", gold])
        (glue / "MNLI" / f"{split}.tsv").write_text(f"{header}\n{line}\n")
    assert tuple(glue_task("MNLI").evaluation_splits) == ("dev_matched", "dev_mismatched")
    found = [open_glue("mnli", f"folder:{glue}", s) for s in glue_task("mnli").evaluation_splits]
    assert [f.sentences for f in found] == [["a"], ["c"]]
    assert [f.labels.tolist() for f in found] == [[1], [2]]


def test_mrpcs_own_tables_are_split_by_glues_list(tmp_path):
    header, first, second = TABLES["MRPC/train"].splitlines()
    third = "1\t3\t4\te\tf"
    table = "\r\n".join([header, first, second, third, ""])
    (tmp_path / "msr_paraphrase_train.txt").write_bytes(table.encode())
    with pytest.raises(DataError, match="but not GLUE's dev_ids.tsv, which says which of its rows"):
        open_glue("MRPC", f"folder:{tmp_path}")
    (tmp_path / "dev_ids.tsv").write_text("9\t1\n8\t7\n")
    train, dev = (open_glue("MRPC", f"folder:{tmp_path}", split) for split in ("train", "dev"))
    assert train.sentences == ["a", "e"] and dev.second_sentences == ["d"]
    assert dev.labels.tolist() == [0] and dev.class_names == train.class_names


def test_the_folder_may_be_the_tasks_own(glue):
    one, other = (open_glue("SST-2", f"folder:{glue}{rest}") for rest in ("", "/SST-2"))
    assert one.sentences == other.sentences


def test_what_is_not_there_is_refused_by_name(glue, tmp_path):
    with pytest.raises(DataError, match="task: glue:SST is not one of GLUE's: CoLA, SST-2, MRPC"):
        open_glue("SST", f"folder:{glue}")
    with pytest.raises(DataError, match="SST-2 has the splits train, dev. Received: 'test'"):
        open_glue("sst2", f"folder:{glue}", "test")
    with pytest.raises(DataError, match="dev.tsv does not exist. GLUE's RTE has train.tsv and dev"):
        open_glue("RTE", f"folder:{tmp_path}", "dev")
    with pytest.raises(DataError, match="read from folder:DIR, .* or from tfds:glue. Received: 'x"):
        open_glue("RTE", "x")


def test_qqps_broken_lines_are_left_out_and_counted(glue, tmp_path):
    header, first, _ = TABLES["QQP/train"].splitlines()
    (tmp_path / "train.tsv").write_text("\n".join([header, *[first] * 200, "half a question"]))
    told = []
    labelled = open_glue("QQP", f"folder:{tmp_path}", warn=told.append)
    assert labelled.num_examples == 200
    assert told == [
        f"{tmp_path}/train.tsv, line 202 is skipped: 1 columns where the first line has 6"
    ]


def test_the_real_tables_are_read_whole(shared_data, tmp_path):
    with tarfile.open(shared_data / "glue.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    counts = {  # train, dev; from the README beside the archive
        "CoLA": (8551, 527),
        "SST-2": (64349, 872),
        "MRPC": (3538, 399),
        "STS-B": (5233, 1367),
        "RTE": (2247, 251),
        "QNLI": (4010, 703),
        "WNLI": (482, 71),
    }

    def refuse(line):
        raise AssertionError(line)

    for name, expected in counts.items():
        parts = [
            open_glue(name, f"folder:{tmp_path}/glue", split, warn=refuse)
            for split in ("train", "dev")
        ]
        assert tuple(part.num_examples for part in parts) == expected
        assert all(text.strip() for part in parts for text in part.sentences)
