"""What a fine-tuning run is measured by, and the weights that did best."""

import contextlib
import math
import os
import time

import keras
import tensorflow as tf
from rich.markup import escape
from rich.table import Table

from d2v_tf.training.checkpoints import all_finite
from d2v_tf.training.guard import CURES, RunStopped
from d2v_tf.training.logs import append_json, read_json_lines

BEST = "best.weights.h5"


class Evaluations:
    """Evaluates a task, keeps the scores in `evaluations.jsonl` and the best weights in a file.

    Args:
        workdir: str.
        console: `rich` console for the scores as they come.
        task: the task model.
        data: has `evaluate(task)`, a dict of numbers and lists of samples, `metric`, the key of the
            number that decides, and `higher_is_better`.
        patience: int. Evaluations without a better score after which the run ends; 0 = never.
        log: optional `RunLog`. Gets the scores for TensorBoard, and learns what evaluating takes.
    """

    def __init__(self, workdir, console, task, data, patience=0, log=None):
        self.path = os.path.join(workdir, "evaluations.jsonl")
        self.best_path = os.path.join(workdir, BEST)
        self.console, self.task, self.data, self.patience = console, task, data, patience
        self.log = log
        records = read_json_lines(self.path)
        if log and records and "seconds" in records[-1]:  # older runs have none
            log.time_left.remember("evaluation", records[-1]["seconds"])

    @property
    def records(self):
        """list of dict. The scores of each evaluation, oldest first, with its `step`."""
        records = read_json_lines(self.path)
        return [{k: v for k, v in r.items() if k != "seconds"} for r in records]

    @property
    def best(self):
        """The best record so far, the earliest of equals, or `None`."""
        return max(self.records, key=self._goodness, default=None)

    @property
    def is_over(self):
        """bool. Whether `patience` evaluations passed since the best one."""
        records = self.records
        if not self.patience or not records:
            return False
        return len(records) - 1 - records.index(self.best) >= self.patience

    def measure(self, step):
        """Evaluates after `step` updates, unless that was done before the run stopped.

        Raises:
            RunStopped: where the weights are no numbers any more.
        """
        records = self.records
        if any(record["step"] == step for record in records):
            return
        if not all_finite([variable.value for variable in self.task.weights]):
            raise RunStopped(
                f"Weights are no finite numbers after step {step}. The last good checkpoint is "
                f"kept. {CURES}"
            )
        began = time.perf_counter()
        with self.log.time_left.pause("evaluation") if self.log else contextlib.nullcontext():
            scores = self.data.evaluate(self.task)
        took = round(time.perf_counter() - began, 3)
        before = max(map(self._goodness, records), default=-math.inf)
        if self._goodness(scores) > before or not os.path.exists(self.best_path):
            # Written before its score is: a run killed in between evaluates again.
            temporary = self.best_path.replace(".weights.h5", ".tmp.weights.h5")
            self.task.save_weights(temporary)
            os.replace(temporary, self.best_path)
        append_json(self.path, {"step": step, "seconds": took, **scores})
        numbers = {k: v for k, v in scores.items() if isinstance(v, (int, float))}
        self._draw(step, numbers)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        self.console.print(f"step {step}: {shown}")
        for line in self.data.describe_samples(scores):
            self.console.print(f"  {escape(line)}")

    def restore_best(self):
        """Gives the task the weights that did best."""
        self.task.load_weights(self.best_path)

    def print_table(self, console):
        """Prints the scores of all evaluations, oldest first."""
        records = self.records
        names = [k for k, v in records[-1].items() if isinstance(v, (int, float)) and k != "step"]
        table = Table("step", *names)
        best = self.best["step"]
        for record in records:
            mark = " (best)" if record["step"] == best else ""
            scores = [f"{record[n]:.4g}" if record.get(n) is not None else "-" for n in names]
            table.add_row(f"{record['step']:,}{mark}", *scores)
        console.print(table)

    def every(self, steps, start):
        """A Keras callback that measures every `steps` updates, `start` of them made before."""
        return _EvaluateEvery(self, steps, start)

    def _draw(self, step, numbers):
        """Gives the scores to TensorBoard, beside the curves of training."""
        if self.log is None:
            return
        try:
            with self.log.writer.as_default(step=step):
                for name, value in numbers.items():
                    tf.summary.scalar(f"evaluation/{name}", value)
        except (OSError, tf.errors.OpError) as error:  # a full disk is no reason to stop
            self.log.say_failed(error)

    def _goodness(self, record):
        value = record[self.data.metric]
        if value is None:  # no number, such as a NaN
            return -math.inf
        return value if self.data.higher_is_better else -value


class _EvaluateEvery(keras.callbacks.Callback):
    def __init__(self, evaluations, steps, start):
        super().__init__()
        self.evaluations, self.steps, self.step = evaluations, steps, start

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.step % self.steps == 0:
            self.evaluations.measure(self.step)
            if self.evaluations.is_over:
                self.model.stop_training = True
