"""Evidence of learning: probes of the backbone beside the untrained one and a plain baseline."""

import collections
import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterable

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from d2v_tf.data.reading import first_line
from d2v_tf.finetuning.probes import mean_pooled_features, probe
from d2v_tf.training.logs import append_json, read_json_lines
from d2v_tf.training.time_left import TimeLeft

# Whose scores are points of one curve: at the start, and later.
OF_BACKBONE = ("untrained", "initial", "pre-trained")
# Below this many training examples a probe measures luck.
MIN_EXAMPLES = 20


@dataclasses.dataclass(frozen=True)
class ProbeTask:
    """A labelled set that the frozen backbone is probed on.

    Attributes:
        name: str. What the labels say: "class", "speaker".
        train, test: datasets of (inputs, labels `[B]`), each example once.
        baseline: str. What a representation has to beat, such as "raw pixels".
        baseline_features: function of such a dataset to (features `[N, D]`, labels `[N]`).
    """

    name: str
    train: Iterable
    test: Iterable
    baseline: str
    baseline_features: Callable


class ProbeCut(Exception):
    """A probe that was left because the run was asked to stop."""


class Evidence:
    """Probes the frozen student and keeps the scores in `probes.jsonl`.

    Args:
        workdir: str.
        console: `rich` console.
        tasks: list of `ProbeTask`.
        time_left: optional `TimeLeft`, told what a probe of the backbone takes.
        talk: optional `rich` console for a line a probe; where there is none, none is printed.
    """

    def __init__(self, workdir, console, tasks, time_left=None, talk=None):
        self.path = os.path.join(workdir, "probes.jsonl")
        self.console, self.talk = console, talk or Console(quiet=True)
        self.tasks = list(tasks)
        self.time_left = time_left or TimeLeft(steps=0)
        self.writer = None
        took = {
            record["task"]: record["seconds"]
            for record in read_json_lines(self.path)
            if record["of"] in OF_BACKBONE and "seconds" in record  # older runs have none
        }
        if took:
            self.time_left.remember("probe", sum(took.values()))

    def write_to(self, writer, start):
        """From here on TensorBoard's `writer` gets the scores, those since `start` at once."""
        self.writer = writer
        for record in read_json_lines(self.path):
            if record["step"] >= start:
                self._summarize(record)

    def measure_baselines(self, backbone, of="untrained"):
        """Probes each task's baseline and the backbone that the run starts with, once a run."""
        for task in list(self.tasks):
            self._measure(task, task.baseline_features, 0, task.baseline)
        self.measure(backbone, 0, of)

    def measure(self, backbone, step, of="pre-trained", is_over=lambda: False):
        """Probes the backbone after `step` updates, unless that was done before the run stopped.

        Args:
            is_over: function, asked after every batch whether to leave it; a run that goes on
                later makes up for it.
        """
        tasks = [task for task in self.tasks if not self._is_done(task, step, of)]
        if not tasks:
            return

        def features(dataset):
            return mean_pooled_features(backbone, _until(dataset, is_over))

        with self.time_left.pause("probe"), contextlib.suppress(ProbeCut):
            for task in tasks:
                self._measure(task, features, step, of)

    def every(self, steps, start, after=None, is_over=lambda: False):
        """A Keras callback that measures every `steps` updates, `start` of them made before.

        Args:
            after: optional function of the step, called after each measurement.
            is_over: as `measure`.
        """
        return _MeasureEvery(self, steps, start, after, is_over)

    @property
    def best_step(self):
        """The step of the best linear probe, the mean of all tasks; `None` before there is one."""
        scores = collections.defaultdict(list)
        for record in read_json_lines(self.path):
            if record["step"]:
                scores[record["step"]].append(record["linear"])
        return max(scores, key=lambda step: np.mean(scores[step]), default=None)

    def print_table(self):
        """Prints all scores, oldest first."""
        records = read_json_lines(self.path)
        if not records:
            return
        table = Table(
            "frozen, mean-pooled features", "step", "task", "tested on", "kNN %", "linear probe %"
        )
        for record in records:
            tested = str(record.get("test_examples", ""))  # older runs did not write it down
            scores = (f"{100 * record[name]:.1f}" for name in ("knn", "linear"))
            table.add_row(
                record["of"], f"{record['step']:,}", escape(record["task"]), tested, *scores
            )
        self.console.print(table)

    def _measure(self, task, features_of, step, of):
        if self._is_done(task, step, of):
            return
        began = time.perf_counter()
        train, test = features_of(task.train), features_of(task.test)
        if self._is_possible(task, train[1], test[1]):
            scores = probe(train, test)
            counts = {"train_examples": len(train[1]), "test_examples": len(test[1])}
            took = {"seconds": round(time.perf_counter() - began, 3)}
            self._record(step, task, of, {**scores, **counts, **took})

    def _is_done(self, task, step, of):
        done = {(r["step"], r["of"], r["task"]) for r in read_json_lines(self.path)}
        return (step, of, task.name) in done

    def _is_possible(self, task, train_labels, test_labels):
        """Whether a task's labels can be probed; a task that cannot is dropped, and said so."""
        num_classes = len(np.unique(train_labels))
        if num_classes >= 2 and len(train_labels) >= MIN_EXAMPLES and len(test_labels):
            return True
        self.console.print(
            f"[yellow]warning:[/] no probe of {escape(task.name)}: {len(train_labels)} training "
            f"examples of {num_classes} classes and {len(test_labels)} test examples; it "
            f"takes at least {MIN_EXAMPLES} training examples of 2 classes and 1 test example."
        )
        self.tasks.remove(task)
        return False

    def _record(self, step, task, of, scores):
        record = {"step": step, "of": of, "task": task.name, **scores}
        after = f"after {step:,} updates" if step else of
        self.talk.print(
            f"probe of {escape(task.name)}, {after}: kNN {100 * scores['knn']:.1f}%, "
            f"linear {100 * scores['linear']:.1f}%"
        )
        self._summarize(record)
        try:
            append_json(self.path, record)
        except OSError as error:
            self.console.print(
                f"[yellow]warning:[/] {escape(self.path)} cannot be written ({error.strerror})"
            )

    def _summarize(self, record):
        """The backbone's scores as curves; what it has to beat as single points beside them."""
        if self.writer is None:
            return
        of = "" if record["of"] in OF_BACKBONE else f"_of_{record['of'].replace(' ', '_')}"
        try:
            with self.writer.as_default(step=record["step"]):
                for name in ("knn", "linear"):
                    tf.summary.scalar(f"probe/{record['task']}/{name}{of}", record[name])
        except tf.errors.OpError as error:  # a full disk; what counts is in `probes.jsonl`
            self.console.print(
                f"[yellow]warning:[/] TensorBoard does not get a probe ({first_line(error)})"
            )


def _until(dataset, is_over):
    for batch in dataset:
        yield batch
        if is_over():
            raise ProbeCut


class _MeasureEvery(keras.callbacks.Callback):
    def __init__(self, evidence, steps, start, after, is_over):
        super().__init__()
        self.evidence, self.steps, self.step = evidence, steps, start
        self.after, self.is_over = after, is_over

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.step % self.steps == 0:
            self.evidence.measure(self.model.student, self.step, is_over=self.is_over)
            if self.after is not None:
                self.after(self.step)
