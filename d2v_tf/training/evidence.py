"""Evidence of learning: probes of the backbone beside the untrained one and the raw input."""

import os

import keras
from rich.table import Table

from d2v_tf.finetuning.probes import mean_pooled_features, probe, raw_features
from d2v_tf.training.logs import append_json, read_json_lines


class Evidence:
    """Probes the frozen student and keeps the scores in `probes.jsonl`.

    Args:
        workdir: str.
        console: `rich` console.
        sets: (train, test): datasets of (inputs, labels), each example once.
    """

    def __init__(self, workdir, console, sets):
        self.path = os.path.join(workdir, "probes.jsonl")
        self.console = console
        self.train, self.test = sets

    def measure_baselines(self, backbone):
        """Probes the raw input and the untrained backbone, once a run."""
        self._record(0, "raw input", probe(raw_features(self.train), raw_features(self.test)))
        self.measure(backbone, 0, "untrained")

    def measure(self, backbone, step, of="pre-trained"):
        """Probes the backbone after `step` updates, unless that was done before the run stopped."""
        if any(r["step"] == step and r["of"] == of for r in read_json_lines(self.path)):
            return
        train = mean_pooled_features(backbone, self.train)
        test = mean_pooled_features(backbone, self.test)
        self._record(step, of, probe(train, test))

    def every(self, steps, start):
        """A Keras callback that measures every `steps` updates, `start` of them made before."""
        return _MeasureEvery(self, steps, start)

    def print_table(self):
        """Prints all scores, oldest first."""
        table = Table("frozen, mean-pooled features", "step", "kNN %", "linear probe %")
        for record in read_json_lines(self.path):
            scores = (f"{100 * record[name]:.1f}" for name in ("knn", "linear"))
            table.add_row(record["of"], f"{record['step']:,}", *scores)
        self.console.print(table)

    def _record(self, step, of, scores):
        append_json(self.path, {"step": step, "of": of, **scores})


class _MeasureEvery(keras.callbacks.Callback):
    def __init__(self, evidence, steps, start):
        super().__init__()
        self.evidence, self.steps, self.step = evidence, steps, start

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.step % self.steps == 0:
            self.evidence.measure(self.model.student, self.step)
