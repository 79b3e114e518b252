"""GLUE's nine tasks (arXiv 1804.07461): where their texts and labels stand, and how they score."""

import dataclasses
import os
import re

from d2v_tf.data.labelled_sources import read_labelled, read_tfds
from d2v_tf.data.labelled_text import Columns
from d2v_tf.data.reading import DataError

# What Microsoft calls MRPC's tables, and GLUE the list of those of its rows that are for dev.
MRPC_TRAIN = "msr_paraphrase_train.txt"
MRPC_DEV_IDS = ("dev_ids.tsv", "mrpc_dev_ids.tsv")


@dataclasses.dataclass(frozen=True)
class GlueTask:
    """One of the tasks.

    Attributes:
        folder: str. Of GLUE's own distribution.
        columns: `Columns` of its tables.
        tfds_columns: `Columns` of the features of TFDS' `glue/NAME`.
        class_names: tuple of str, as TFDS has them; `None` for STS-B's scores.
        labels: tuple of str. What the tables say, in the order of the names.
        metrics: tuple of str, of `finetuning.metrics`; the task's score is their mean.
        evaluation_splits: dict, what is measured on -> TFDS' name of it.
    """

    folder: str
    columns: Columns
    tfds_columns: Columns
    class_names: tuple[str, ...] | None = None
    labels: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("accuracy",)
    evaluation_splits: dict[str, str] = dataclasses.field(
        default_factory=lambda: {"dev": "validation"}
    )

    @property
    def class_of(self):
        """dict from what a table says to a class' name, or `None`."""
        if self.class_names is None:
            return None
        return dict(zip(self.labels, self.class_names, strict=True))


ENTAILMENT = ("entailment", "not_entailment")
NLI = ("entailment", "neutral", "contradiction")
PAIR = Columns("sentence1", "sentence2")

# A table's lines are in GLUE's order; columns of a table without a line of names are numbered.
GLUE_TASKS = {
    "cola": GlueTask(
        folder="CoLA",
        columns=Columns(sentence=3, label=1),  # source, label, mark, sentence
        tfds_columns=Columns(),
        class_names=("unacceptable", "acceptable"),
        labels=("0", "1"),
        metrics=("matthews",),
    ),
    "sst2": GlueTask(
        folder="SST-2",
        columns=Columns(),
        tfds_columns=Columns(),
        class_names=("negative", "positive"),
        labels=("0", "1"),
    ),
    "mrpc": GlueTask(
        folder="MRPC",
        columns=Columns("#1 String", "#2 String", "Quality"),
        tfds_columns=PAIR,
        class_names=("not_equivalent", "equivalent"),
        labels=("0", "1"),
        metrics=("accuracy", "f1"),
    ),
    "qqp": GlueTask(
        folder="QQP",
        columns=Columns("question1", "question2", "is_duplicate"),
        tfds_columns=Columns("question1", "question2"),
        class_names=("not_duplicate", "duplicate"),
        labels=("0", "1"),
        metrics=("accuracy", "f1"),
    ),
    "stsb": GlueTask(
        folder="STS-B",
        columns=Columns("sentence1", "sentence2", "score", regression=True),
        tfds_columns=Columns("sentence1", "sentence2", regression=True),
        metrics=("pearson", "spearman"),
    ),
    "mnli": GlueTask(
        folder="MNLI",
        columns=Columns("sentence1", "sentence2", "gold_label"),
        tfds_columns=Columns("premise", "hypothesis"),
        class_names=NLI,
        labels=NLI,
        evaluation_splits={
            "dev_matched": "validation_matched",
            "dev_mismatched": "validation_mismatched",
        },
    ),
    "qnli": GlueTask(
        folder="QNLI",
        columns=Columns("question", "sentence"),
        tfds_columns=Columns("question", "sentence"),
        class_names=ENTAILMENT,
        labels=ENTAILMENT,
    ),
    "rte": GlueTask(
        folder="RTE",
        columns=PAIR,
        tfds_columns=PAIR,
        class_names=ENTAILMENT,
        labels=ENTAILMENT,
    ),
    "wnli": GlueTask(
        folder="WNLI",
        columns=PAIR,
        tfds_columns=PAIR,
        class_names=("not_entailment", "entailment"),
        labels=("0", "1"),
    ),
}


def glue_task(name):
    """The `GlueTask` of a name such as `"sst2"` or `"SST-2"`.

    Raises:
        DataError: where GLUE has no such task.
    """
    task = GLUE_TASKS.get(re.sub("[-_]", "", name.lower()))
    if task is None:
        names = ", ".join(task.folder for task in GLUE_TASKS.values())
        raise DataError(f"task: glue:{name} is not one of GLUE's: {names}.")
    return task


def open_glue(name, source, split="train", tfds_dir=None, max_bad=0.01, warn=print):
    """Reads a part of a task.

    Args:
        name: str, such as `"sst2"` or `"SST-2"`.
        source: str. `folder:DIR`, GLUE's own tables, where DIR holds the task's folder or is it;
            or `tfds:glue`.
        split: `"train"`, or one of the task's `evaluation_splits`.
        tfds_dir: optional str. Where TFDS keeps its datasets.
        max_bad: float. The part of the lines that may be bad: QQP's training table has some.
        warn: callable(str), called once for each of them.

    Returns:
        `LabelledText`, its classes numbered and named in the same way whatever the source.

    Raises:
        DataError: where there is no such task, split or table, or too much in it is bad.
    """
    task = glue_task(name)
    if split != "train" and split not in task.evaluation_splits:
        raise DataError(
            f"data: {task.folder} has the splits train, {', '.join(task.evaluation_splits)}. "
            f"Received: {split!r}"
        )
    scheme, _, path = source.partition(":")
    if scheme == "folder":
        labelled = _read_table(task, path, split, {"max_bad": max_bad, "warn": warn})
    elif scheme == "tfds" and path.split("/")[0] == "glue":
        key = next(key for key, value in GLUE_TASKS.items() if value is task)
        spec = f"glue/{key}:{task.evaluation_splits.get(split, split)}"
        labelled = read_tfds(spec, task.tfds_columns, tfds_dir, max_bad=max_bad, warn=warn)
    else:
        raise DataError(
            f"data: GLUE's {task.folder} is read from folder:DIR, where DIR has the folder "
            f"{task.folder}, or from tfds:glue. Received: {source!r}"
        )
    return labelled.with_classes(task.class_names)


def _read_table(task, path, split, options):
    folder = os.path.join(path, task.folder)
    if not os.path.isdir(folder):
        folder = path
    table = os.path.join(folder, f"{split}.tsv")
    msr = os.path.join(folder, MRPC_TRAIN)
    options = {"columns": task.columns, "class_of": task.class_of, **options}
    if os.path.exists(table) or not (task.folder == "MRPC" and os.path.exists(msr)):
        if not os.path.exists(table):
            raise DataError(
                f"data: {table} does not exist. GLUE's {task.folder} has train.tsv and "
                f"{', '.join(f'{s}.tsv' for s in task.evaluation_splits)} in a folder "
                f"{task.folder} below the one that is named: {path}"
            )
        return read_labelled(table, **options)
    for_dev = _mrpc_dev_ids(folder)
    return read_labelled(
        msr, wanted=lambda row: ((row[1], row[2]) in for_dev) == (split == "dev"), **options
    )


def _mrpc_dev_ids(folder):
    """The pairs of ids of the rows of MRPC's training table that GLUE has in dev."""
    paths = [os.path.join(folder, name) for name in MRPC_DEV_IDS]
    path = next(filter(os.path.exists, paths), None)
    if path is None:
        raise DataError(
            f"data: {folder} has MRPC's {MRPC_TRAIN}, but not GLUE's {MRPC_DEV_IDS[0]}, which says "
            "which of its rows are for dev."
        )
    with open(path, encoding="utf-8-sig") as file:
        return {tuple(line.rstrip("\r\n").split("\t")[:2]) for line in file}
