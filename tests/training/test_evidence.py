"""Probes are measured once each, beside the untrained backbone and a baseline."""

import dataclasses
import io
import time

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from d2v_tf.finetuning.probes import raw_features
from d2v_tf.training.evidence import Evidence, ProbeTask
from d2v_tf.training.logs import read_json_lines
from d2v_tf.training.time_left import TimeLeft


class Backbone:
    """Stands for a backbone: one token, the images' pixels; counts how often it is asked."""

    num_prefix_tokens, calls = 0, 0

    def feature_padding_mask(self, inputs):
        return None

    def predict_on_batch(self, images):
        self.calls += 1
        return images.reshape(len(images), 1, -1)


def images_of_two_classes(num, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, num)
    images = rng.normal(0, 0.1, (num, 2, 2, 1))
    images[..., 0, 0] += 2.0 * labels[:, None, None][..., 0] - 1.0
    return [(images.astype("float32"), labels)]


@pytest.fixture
def evidence(tmp_path):
    console = Console(file=io.StringIO(), width=120)
    train, test = images_of_two_classes(60, 0), images_of_two_classes(40, 1)
    return Evidence(str(tmp_path), console, [task(train, test)])


def task(train, test):
    return ProbeTask("class", train, test, "raw pixels", raw_features)


def scores(evidence):
    return [(r["of"], r["step"], r["knn"], r["linear"]) for r in read_json_lines(evidence.path)]


def test_baselines_come_first_and_each_score_is_measured_once(evidence):
    backbone = Backbone()
    evidence.measure_baselines(backbone)
    evidence.measure(backbone, 5)
    calls = backbone.calls
    evidence.measure(backbone, 5)  # as after a run that stopped between probe and end
    evidence.measure_baselines(backbone)  # as after a run that stopped before its first checkpoint
    assert backbone.calls == calls
    assert scores(evidence) == [
        ("raw pixels", 0, 1.0, 1.0),
        ("untrained", 0, 1.0, 1.0),
        ("pre-trained", 5, 1.0, 1.0),
    ]
    train, test = (
        sum(len(y) for _, y in part) for part in (evidence.tasks[0].train, evidence.tasks[0].test)
    )
    for record in read_json_lines(evidence.path):
        assert (record["train_examples"], record["test_examples"]) == (train, test)


def test_weights_that_a_run_starts_from_have_a_name_of_their_own(evidence):
    evidence.measure_baselines(Backbone(), "initial")
    assert [(of, step) for of, step, *_ in scores(evidence)] == [("raw pixels", 0), ("initial", 0)]


def test_each_probe_is_a_line_and_a_point_of_tensorboard(tmp_path):
    file = io.StringIO()
    talk = Console(file=file, width=120)
    tasks = [task(images_of_two_classes(60, 0), images_of_two_classes(40, 1))]
    evidence = Evidence(str(tmp_path), talk, tasks, talk=talk)
    evidence.measure_baselines(Backbone())
    writer = tf.summary.create_file_writer(str(tmp_path / "tensorboard"))
    evidence.write_to(writer, start=0)
    evidence.measure(Backbone(), 1500)
    writer.close()
    assert file.getvalue().splitlines() == [
        "probe of class, raw pixels: kNN 100.0%, linear 100.0%",
        "probe of class, untrained: kNN 100.0%, linear 100.0%",
        "probe of class, after 1,500 updates: kNN 100.0%, linear 100.0%",
    ]
    (events,) = (tmp_path / "tensorboard").iterdir()
    points = [
        (value.tag, event.step)
        for event in tf.compat.v1.train.summary_iterator(str(events))
        for value in event.summary.value
    ]
    assert points == [
        ("probe/class/knn_of_raw_pixels", 0),
        ("probe/class/linear_of_raw_pixels", 0),
        ("probe/class/knn", 0),
        ("probe/class/linear", 0),
        ("probe/class/knn", 1500),
        ("probe/class/linear", 1500),
    ]


def test_the_table_has_every_score_in_percent(evidence):
    first = evidence.tasks[0]
    evidence._record(0, first, "raw pixels", {"knn": 0.5, "linear": 0.625})
    evidence._record(
        12000, first, "pre-trained", {"knn": 0.75, "linear": 0.8764, "test_examples": 321}
    )
    evidence.print_table()
    shown = evidence.console.file.getvalue()
    raw, trained = (line for line in shown.splitlines() if "raw" in line or "pre-" in line)
    assert "50.0" in raw and "62.5" in raw
    assert "12,000" in trained and "75.0" in trained and "87.6" in trained
    assert "321" in trained


def test_the_callback_counts_the_steps_of_the_whole_run(evidence):
    backbone = Backbone()
    callback = evidence.every(4, start=6)
    callback.set_model(type("Model", (), {"student": backbone}))
    for batch in range(7):  # updates 7 to 13
        callback.on_train_batch_end(batch)
    assert [step for _, step, *_ in scores(evidence)] == [8, 12]


@pytest.mark.parametrize(
    ("num_train", "num_test", "one_class", "found"),
    [
        (19, 5, False, "19 training examples of 2 classes and 5 test"),
        (30, 5, True, "30 training examples of 1 classes and 5 test"),
        (30, 0, False, "30 training examples of 2 classes and 0 test"),
    ],
)
def test_too_few_labels_are_said_and_not_probed(tmp_path, num_train, num_test, one_class, found):
    def some(num, seed):
        if not num:
            return []
        images, labels = images_of_two_classes(num, seed)[0]
        return [(images, np.zeros_like(labels) if one_class else labels)]

    console = Console(file=io.StringIO(), width=300)
    evidence = Evidence(str(tmp_path), console, [task(some(num_train, 0), some(num_test, 1))])
    evidence.measure_baselines(Backbone())
    evidence.measure(Backbone(), 3)
    evidence.print_table()
    assert scores(evidence) == []
    assert console.file.getvalue().count(f"no probe of class: {found}") == 1


def test_the_best_step_has_the_best_mean_of_all_tasks(evidence):
    assert evidence.best_step is None
    for step, linear in ((0, 0.99), (5, 0.5), (10, 0.9), (15, 0.8)):
        for name, found in (("one", 0.5), ("two", linear)):
            one = dataclasses.replace(evidence.tasks[0], name=name)
            evidence._record(step, one, "pre-trained", {"knn": 1, "linear": found})
    assert evidence.best_step == 10  # the untrained backbone and the baseline are no candidates


def test_a_run_that_goes_on_knows_what_a_probe_takes(tmp_path):
    train, test = images_of_two_classes(60, 0), images_of_two_classes(40, 1)

    def features(dataset):
        time.sleep(0.1)
        return raw_features(dataset)

    tasks = [ProbeTask(name, train, test, "raw pixels", features) for name in ("class", "color")]

    class Slow(Backbone):
        def predict_on_batch(self, images):
            time.sleep(0.25)  # twice for each of two tasks: train and test
            return super().predict_on_batch(images)

    console = Console(file=io.StringIO())
    Evidence(str(tmp_path), console, tasks).measure_baselines(Slow())
    left = TimeLeft(10, {"probe": 5})
    Evidence(str(tmp_path), console, tasks, left)
    assert left.paused["probe"] >= 1.0
    assert left.paused["probe"] == pytest.approx(
        sum(
            r["seconds"]
            for r in read_json_lines(tmp_path / "probes.jsonl")
            if r["of"] == "untrained"
        )
    )
