"""What a run writes down while it trains: `metrics.jsonl`, TensorBoard, and one live line."""

import collections
import json
import os
import statistics
import time
from math import inf

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from d2v_tf.training.time_left import COMPILES, WINDOW, TimeLeft

SHOWN = ("loss", "target_var", "pred_var")
# What the bar says while it is done.
DOING = {
    "probe": "probing",
    "checkpoint": "saving",
    "pictures": "drawing pictures",
    "evaluation": "evaluating",
}


class Speedometer:
    """Examples per second of training alone: compilation, probes and checkpoints stay out."""

    def __init__(self):
        self.per_second = None
        self._last = collections.deque(maxlen=WINDOW)  # (seconds, examples) of a step
        self._compiled = False
        self._began = None

    def begin(self):
        self._began = time.perf_counter()

    def end(self, examples):
        """Counts one step of so many examples; the first one compiles and is left out."""
        elapsed = time.perf_counter() - self._began
        if not self._compiled:
            self._compiled = True
            return
        self._last.append((elapsed, examples))
        median = statistics.median(seconds for seconds, _ in self._last)
        usual = [step for step in self._last if step[0] <= COMPILES * median]
        self.per_second = sum(n for _, n in usual) / sum(seconds for seconds, _ in usual)


class RunLog(keras.callbacks.Callback):
    """Logs every `log_every` steps to the run's folder and keeps the terminal up to date.

    Args:
        workdir: str. `metrics.jsonl` and `tensorboard/` go there.
        start: int. Updates made before this fit.
        steps: int. Updates of the whole run.
        log_every: int. Updates between two logged ones.
        counts: callable without arguments, a dict of further numbers to log (skipped examples).
        console: `rich` console; a bar where it is a terminal, plain lines elsewhere.
        shown: names of the numbers that the terminal shows, the most important first.
        time_left: optional `TimeLeft` that knows what comes between updates.
        quiet: bool. Whether nothing but warnings is shown.
    """

    def __init__(
        self,
        workdir,
        start,
        steps,
        log_every,
        counts,
        console=None,
        shown=SHOWN,
        time_left=None,
        quiet=False,
    ):
        super().__init__()
        self.path = os.path.join(workdir, "metrics.jsonl")
        self.start, self.steps = start, steps
        self.log_every = log_every
        self.counts, self.shown = counts, shown
        self.console = console or Console()
        self.quiet = quiet
        self.speed = Speedometer()
        self.time_left = time_left or TimeLeft(steps)
        self.writer = tf.summary.create_file_writer(os.path.join(workdir, "tensorboard"))
        self.bar, self.shown_status = None, "compiling"
        self.failed = False

    def on_train_begin(self, logs=None):
        if self.quiet:
            return
        if self.console.is_interactive:
            count = f"step {self.steps}/{self.steps}"
            # What does not fit a narrow terminal is cut at its right.
            self.bar = Progress(
                TextColumn(
                    "step {task.completed:.0f}/{task.total:.0f}",
                    table_column=Column(no_wrap=True, min_width=len(count)),
                ),
                BarColumn(12, table_column=Column(min_width=12)),
                TextColumn(
                    "{task.fields[status]}",
                    table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
                ),
                console=self.console,
                expand=True,
            )
            self.task = self.bar.add_task(
                "train", total=self.steps, completed=self.start, status=self.shown_status
            )
            self.bar.start()
            self.time_left.tell = self._say_what_takes_long
        else:
            self.console.print("compiling the first update")

    def on_train_batch_begin(self, batch, logs=None):
        self.speed.begin()

    def on_train_batch_end(self, batch, logs=None):
        logs = dict(logs)
        self.speed.end(float(logs.pop("examples")))
        self.time_left.tick()
        step = self.start + batch + 1
        due = step % self.log_every == 0 or step in (self.start + 1, self.steps)
        if self.bar is not None:
            first, *numbers, speed, left = self._status(step, logs)
            self.shown_status = "  ".join(filter(None, [left, first, speed, *numbers]))
            self.bar.update(self.task, completed=step, status=self.shown_status)
        elif due and not self.quiet:
            status = "  ".join(filter(None, self._status(step, logs)))
            self.console.print(f"step {step}/{self.steps}  {status}")
        if due:
            self._write(step, logs)

    def _say_what_takes_long(self, kind):
        """What is done between two updates, before the numbers; `None` when it is over."""
        if self.bar is not None:
            now = "" if kind is None else f"{DOING.get(kind, kind)} ...  "
            self.bar.update(self.task, status=f"{now}{self.shown_status}", refresh=True)

    def close(self):
        """Ends the bar and the files; also after an error inside the fit."""
        if self.bar is not None:
            self.time_left.tell = lambda kind: None
            self.bar.stop()
            self.bar = None
        try:
            self.writer.close()
        except tf.errors.OpError as error:
            self.say_failed(error)

    def _write(self, step, logs):
        record = {name: float(value) for name, value in logs.items()}
        record["examples_per_second"] = self.speed.per_second
        record.update(self.counts())
        try:
            append_json(self.path, {"step": step, **record})
            with self.writer.as_default(step=step):
                for name, value in record.items():
                    if value is not None:
                        tf.summary.scalar(name, value)
        except (OSError, tf.errors.OpError) as error:  # a full disk is no reason to stop
            self.say_failed(error)

    def say_failed(self, error):
        """Warns, once, of a log that cannot be written."""
        if not self.failed:
            reason = escape(str(error).splitlines()[0][:200])
            self.console.print(f"[yellow]warning:[/] some of the log cannot be written ({reason})")
        self.failed = True

    def _status(self, step, logs):
        """The shown numbers, the speed and the time left; the last two empty while unknown."""
        parts = [f"{name} {float(logs[name]):.4f}" for name in self.shown]
        left = self.time_left.seconds(step)
        speed = self.speed.per_second
        return [
            *parts,
            "" if speed is None else f"{speed:,.{0 if speed >= 10 else 1}f} examples/s",
            "" if left is None else f"{format_seconds(left)} left",
        ]


def format_seconds(seconds):
    """`75` -> `1:15`, `3700` -> `1:01:40`."""
    seconds = int(round(seconds))
    hours, minutes, seconds = seconds // 3600, seconds // 60 % 60, seconds % 60
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def append_json(path, record):
    """Appends one JSON object as a line; NumPy numbers become Python's, no numbers `null`."""
    plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in record.items()}
    # JSON has no NaN and no infinity.
    plain = {k: None if v in (inf, -inf) or v != v else v for k, v in plain.items()}
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(plain) + "\n")


def read_json_lines(path):
    """The objects of a file of JSON lines, oldest first; a half-written last line is left out."""
    if not os.path.exists(path):
        return []
    records = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:  # the run was killed while writing it
                continue
    return records


def drop_records_after(path, step):
    """Drops what a killed run logged past the checkpoint that it resumes from."""
    if not os.path.exists(path):
        return
    kept = [record for record in read_json_lines(path) if record["step"] <= step]
    temporary = f"{path}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in kept)
    os.replace(temporary, path)
