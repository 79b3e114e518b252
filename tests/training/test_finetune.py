"""Fine-tuning runs on a few images: what they leave behind, how they go on, what is refused."""

import dataclasses
import io
import os
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

import d2v_tf
from d2v_tf.config import load_finetune_recipe
from d2v_tf.data.vision_sources import open_images
from d2v_tf.errors import UserError
from d2v_tf.schema.finetune import duration_problems, resolve_durations
from d2v_tf.training import finetune as finetuning
from d2v_tf.training.finetune import finetune
from d2v_tf.training.guard import RunStopped
from d2v_tf.training.logs import read_json_lines
from tests.data.images import encode, picture, write_tree

RECIPE = """
modality: vision
batch_size: 4
steps: 8
precision: float32
xla: false
log_every: 1
scratch: SCRATCH
optimizer: {learning_rate: 0.003, layer_decay: 0.8, weight_decay: 0.05}
schedule: {warmup_steps: 25%}
head: {label_smoothing: 0.1, dropout: 0.1}
evaluate_every: 4
checkpoint_every: 4
data: {crop_scale: [0.5, 1.0]}
"""
PRETRAINING = """
modality: vision
steps: 4
batch_size: 4
model: {image_shape: [16, 16, 3], patch_size: 4, num_layers: 2, hidden_dim: 16, num_heads: 2,
        intermediate_dim: 32}
mask: {min_block: 4}
data2vec: {num_target_layers: 2, ema: [0.9, 0.99, 2]}
optimizer: {learning_rate: 0.001}
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    write_tree(root / "train", 16)
    write_tree(root / "test", 6)
    return root


@pytest.fixture
def start(photos, tmp_path):
    """A function that runs a recipe with some keys set."""
    (tmp_path / "pretrain.yaml").write_text(PRETRAINING)
    config = tmp_path / "finetune.yaml"
    config.write_text(RECIPE.replace("SCRATCH", str(tmp_path / "pretrain.yaml")))

    def run(name, *settings, quiet=False):
        data = [f"data.source=folder:{photos}/train", f"data.eval_source=folder:{photos}/test"]
        recipe = load_finetune_recipe(str(config), [*data, *settings])
        console = Console(file=printed.setdefault(name, io.StringIO()), width=200)
        return finetune(recipe, str(tmp_path / name), console, quiet)

    printed = {}
    run.printed = lambda name: printed[name].getvalue()
    return run


def losses(folder):
    return {record["step"]: record["loss"] for record in read_json_lines(folder / "metrics.jsonl")}


def test_what_a_run_leaves_behind(start, tmp_path, photos):
    task, best = start("run")
    folder = tmp_path / "run"
    evaluations = read_json_lines(folder / "evaluations.jsonl")
    assert [record["step"] for record in evaluations] == [4, 8]
    assert best["accuracy"] == max(record["accuracy"] for record in evaluations)
    assert len(losses(folder)) == 8
    again = d2v_tf.load_task(folder, verbose=False)
    assert again.class_names == ("cat", "dog")
    images = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype("float32")
    np.testing.assert_array_equal(np.asarray(again(images)), np.asarray(task(images)))
    # Images as they are, of any size, go through its preprocessor.
    pictures = np.random.default_rng(0).integers(0, 256, (2, 30, 20, 3)).astype("uint8")
    assert again.predict(pictures, verbose=0).shape == (2, 2)
    assert "2 classes: cat, dog" in start.printed("run")
    page = (folder / "report.html").read_text()
    assert f"accuracy {best['accuracy']:.4g} after {best['step']} updates" in page
    assert "8 of 8" in page and f"{photos}/test, 6 examples" in page and "1 CPU" in page


def test_what_was_trained_in_bfloat16_is_read_back(start, tmp_path):
    task, _ = start("half", "precision=bfloat16", "steps=1")
    assert task.backbone.compute_dtype == "bfloat16"
    again = d2v_tf.load_task(tmp_path / "half", verbose=False)
    kerashubs = d2v_tf.Data2VecImageClassifier.from_preset(str(tmp_path / "half" / "preset"))
    images = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype("float32")
    for model in (again, kerashubs):
        assert model.backbone.compute_dtype == "float32"
        np.testing.assert_allclose(model(images), task(images), atol=0.02)


def test_a_stopped_run_goes_on_as_if_it_had_not(start, tmp_path, monkeypatch):
    start("whole")
    measure = finetuning.Evaluations.measure

    def stop(self, step):
        measure(self, step)
        if step == 4 and os.path.exists(os.path.join(tmp_path, "stopped", "checkpoints")):
            monkeypatch.setattr(finetuning.Evaluations, "measure", measure)
            raise KeyboardInterrupt

    monkeypatch.setattr(finetuning.Evaluations, "measure", stop)
    settings = ["checkpoint_every=3"]
    with pytest.raises(KeyboardInterrupt):
        start("stopped", *settings)
    assert max(losses(tmp_path / "stopped")) == 4
    start("stopped", *settings)
    assert "resuming after step 3" in start.printed("stopped")
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    scores = [
        [{**record, "seconds": None} for record in read_json_lines(path)]
        for path in tmp_path.glob("*/evaluations.jsonl")
    ]
    assert len(scores) == 2 and scores[0] == scores[1]
    # What an evaluation takes is known to the run that goes on.
    log, console = finetuning.TimeLeft(1), io.StringIO()
    told = SimpleNamespace(time_left=log)
    finetuning.Evaluations(str(tmp_path / "stopped"), Console(file=console), None, None, log=told)
    took = read_json_lines(tmp_path / "stopped" / "evaluations.jsonl")[-1]["seconds"]
    assert log.paused == {"evaluation": took} and took > 0


def test_a_run_that_goes_on_with_other_data_says_so(start, tmp_path):
    paths = write_tree(tmp_path / "mine", 12)
    settings = [f"data.source=folder:{tmp_path}/mine", "steps=2", "checkpoint_every=1"]
    start("run", *settings)
    assert "when the run began" not in start.printed("run")
    for file in (tmp_path / "run" / "checkpoints").glob("step-2*"):
        file.unlink()
    paths[3].unlink()
    start("run", *settings)
    printed = start.printed("run")
    assert "resuming after step 1" in printed
    assert "mine has 11 examples and had 12 when the run began. The order of" in printed


def test_compiling_all_or_parts_makes_no_difference(start, tmp_path):
    kinds = "false", "parts", "true"
    settings = ["head.dropout=0", "optimizer.layer_decay=1"]
    for kind in kinds:
        start(kind, f"xla={kind}", *settings)
    graph, *others = [[*losses(tmp_path / kind).values()] for kind in kinds]
    for other in others:
        np.testing.assert_allclose(other, graph, rtol=1e-4)


def test_a_frozen_backbone_moves_only_after_it_is_thawed(start, tmp_path):
    init = tmp_path / "init"
    backbone = d2v_tf.Data2VecVisionBackbone(
        image_shape=(16, 16, 3),
        patch_size=4,
        num_layers=2,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=32,
    )
    backbone.save_to_preset(str(init))
    first = backbone.get_weights()

    def moved(name, *settings):
        task, _ = start(name, f"init={init}", *settings)
        pairs = zip(task.backbone.weights, first, strict=True)
        return {w.path.split("/")[0] for w, before in pairs if not np.array_equal(w, before)}

    assert moved("always", "freeze.backbone_steps=100%") == set()
    # Two updates of warm-up, then the rate of the third is above 0.
    late = moved("late", "freeze.backbone_steps=3", "freeze.frontend=true")
    assert late == {"encoder", "final_norm", "positions"}
    assert moved("all") == {"encoder", "final_norm", "positions", "frontend"}


def test_a_loss_that_is_no_number_ends_the_run_and_is_not_saved(start, tmp_path):
    with pytest.raises(RunStopped, match="The loss is (nan|inf) at step [2-5]. .*learning_rate"):
        start("wild", "optimizer.learning_rate=1e30", "checkpoint_every=1", "schedule={}")
    assert not (tmp_path / "wild" / "preset").exists()
    for path in (tmp_path / "wild" / "checkpoints").glob("*.index"):
        reader = tf.train.load_checkpoint(str(path.with_suffix("")))
        kernels = [name for name in reader.get_variable_to_shape_map() if "output_dense" in name]
        assert kernels and all(np.isfinite(reader.get_tensor(name)).all() for name in kernels)


def test_weights_that_are_no_numbers_are_not_measured(tmp_path):
    data = Scores("accuracy", True, [0.5])
    data.weights = [keras.Variable([1.0, np.nan])]
    evaluations = finetuning.Evaluations(str(tmp_path), Console(quiet=True), data, data)
    with pytest.raises(RunStopped, match="no finite numbers after step 4"):
        evaluations.measure(4)
    assert evaluations.best is None


def test_a_quiet_run_whose_evaluations_are_curves_and_part_of_the_time_left(start, tmp_path):
    paused = []
    pause = finetuning.TimeLeft.pause
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            finetuning.TimeLeft,
            "pause",
            lambda self, kind: paused.append(kind) or pause(self, kind),
        )
        start("run", quiet=True)
    lines = start.printed("run").splitlines()
    assert "accuracy" in lines[1] and lines[-2].startswith("model: ")
    assert lines[-1] == f"report: {tmp_path}/run/report.html"
    assert not any(word in start.printed("run") for word in ("loss", "backbone", "step 4"))
    found = {}
    for path in (tmp_path / "run" / "tensorboard").iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                found.setdefault(value.tag, []).append(event.step)
    assert found["evaluation/accuracy"] == [4, 8] and found["evaluation/macro_f1"] == [4, 8]
    assert len(found["loss"]) == 8
    assert paused.count("evaluation") == paused.count("checkpoint") == 2


def test_a_fraction_of_the_labels(start, tmp_path):
    start("few", "label_fraction=0.25", "epochs=2", "steps=null")
    assert "4 examples" in start.printed("few")
    assert len(losses(tmp_path / "few")) == 2  # two epochs of four examples, four an update


def test_early_stopping(start, tmp_path):
    settings = "steps=40", "patience=2", "optimizer.learning_rate=1e-12", "evaluate_every=4"
    start("early", *settings)
    assert max(losses(tmp_path / "early")) == 12  # the first, and two that are no better
    start("early", *settings)
    assert "the run ended after step 12: there is nothing" in start.printed("early")
    assert max(losses(tmp_path / "early")) == 12


def test_regularization_of_the_recipe_replaces_the_backbones(start):
    task, _ = start("regularized", "model.drop_path_rate=0.2", "steps=1")
    assert task.backbone.drop_path_rate == 0.2


def test_a_run_with_every_augmentation(start, tmp_path):
    settings = ["rand_augment=[2,9]", "erasing=0.25", "mixup=0.8", "cutmix=1.0", "color_jitter=0.4"]
    start("augmented", "steps=2", *(f"data.{setting}" for setting in settings))
    assert all(np.isfinite(loss) for loss in losses(tmp_path / "augmented").values())


def test_another_image_size(start):
    task, _ = start("large", "data.image_size=24", "steps=1")
    assert task.backbone.image_shape == (24, 24, 3)


def test_a_backbone_of_another_kind(start, tmp_path):
    d2v_tf.Data2VecTextBackbone(
        vocabulary_size=30,
        max_sequence_length=8,
        num_layers=1,
        hidden_dim=8,
        num_heads=2,
        intermediate_dim=8,
    ).save_to_preset(str(tmp_path / "text"))
    with pytest.raises(UserError, match="Data2VecTextBackbone, and the recipe is for vision"):
        start("wrong", f"init={tmp_path / 'text'}")


def test_steps_or_epochs(start):
    with pytest.raises(UserError, match="steps: 8 with epochs 3.0: give one of the two"):
        start("both", "epochs=3")


def test_durations_and_tasks_that_are_none(start):
    with pytest.raises(UserError, match="evaluate_every: .*above 0"):
        start("never", "evaluate_every=0")
    with pytest.raises(UserError, match="checkpoint_every: .*above 0"):
        start("never", "checkpoint_every=0%")
    with pytest.raises(UserError, match="task"):
        start("what", "task=clasify")


def test_durations_that_are_longer_than_the_run(start, tmp_path):
    with pytest.raises(UserError, match="schedule: its stages take 9 updates, more than the 8 of"):
        start("no", "schedule.warmup_steps=9")
    init = f"init={tmp_path / 'nowhere'}"  # refused before it is opened
    with pytest.raises(UserError, match="backbone_steps: 8 of 8 updates would leave .* or 100%"):
        start("no", "freeze.backbone_steps=8", init)
    epochs = ["steps=null", "epochs=2"]  # 16 photos by 4
    with pytest.raises(UserError, match=r"stages take 9 updates, .* \(2 epochs of .*train"):
        start("no", *epochs, "schedule.warmup_steps=9")


def test_parts_of_a_short_run_are_rounded_together():
    text = "{kind: tri_stage, warmup_steps: 10%, hold_steps: 40%, decay_steps: 50%, final_scale: 1}"
    config = finetuning.PRETRAIN_CONFIGS.parent / "finetune" / "vision_tiny.yaml"
    recipe = load_finetune_recipe(str(config), [f"schedule={text}"])
    for steps in range(2, 40):
        schedule = resolve_durations(recipe, steps).schedule
        stages = schedule.warmup_steps, schedule.hold_steps, schedule.decay_steps
        assert sum(stages) <= steps and min(stages) >= (steps > 2)
        assert not list(duration_problems(recipe, steps))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.image_size=22", "image_size: 22 pixels are not whole patches .* Give 20 or 24"),
        ("scratch=nothing", "scratch: nothing is no recipe .*nothing.yaml is no file"),
        ("data.cutmix=1.5", "data.cutmix: 1.5 is not at most 1"),
        ("data.mean=[0.5]", "data.mean: 1 numbers for the 3 channels of an image"),
        ("data.std=[1,1,1,1]", "data.std: 4 numbers for the 3 channels of an image"),
    ],
)
def test_values_that_do_not_fit(start, setting, message):
    with pytest.raises(UserError, match=message):
        start("no", setting)


def test_from_scratch_nothing_is_frozen(start):
    start("scratch", "freeze.backbone_steps=100%", "steps=1")
    assert "warning: from scratch nothing is frozen" in start.printed("scratch")


def test_another_start_or_another_set_in_the_same_folder(start, tmp_path, photos):
    start("one")
    with pytest.raises(UserError, match="init was 'scratch' and is '.*init'"):
        start("one", f"init={tmp_path}/init")
    with pytest.raises(UserError, match="data.eval_source was 'folder:.*/test' and is 'folder:.*"):
        start("one", f"data.eval_source=folder:{photos}/train")


class Scores:
    """What `Evaluations` asks for, with scores that are given."""

    def __init__(self, metric, higher_is_better, values):
        self.metric, self.higher_is_better = metric, higher_is_better
        self.values = iter(values)

    weights = (keras.Variable(1.0),)

    def evaluate(self, task):
        task.weight = next(self.values)
        return {self.metric: task.weight}

    def save_weights(self, path):
        with open(path, "w", encoding="utf-8") as file:
            file.write(str(self.weight))

    def describe_samples(self, scores):
        return []


@pytest.mark.parametrize(
    ("metric", "higher", "values", "best"),
    [("accuracy", True, [0.1, 0.3, 0.2, 0.25], 0.3), ("wer", False, [0.9, 0.4, 0.5, 0.6], 0.4)],
)
def test_the_best_is_the_highest_or_the_lowest(metric, higher, values, best, tmp_path):
    data = Scores(metric, higher, values)
    console = Console(file=io.StringIO())
    evaluations = finetuning.Evaluations(str(tmp_path), console, data, data, patience=2)
    over = []
    for step in (1, 2, 3, 4):
        evaluations.measure(step)
        over.append(evaluations.is_over)
    assert evaluations.best == {"step": 2, metric: best}
    assert (tmp_path / "best.weights.h5").read_text() == str(best)
    assert over == [False, False, False, True]


def test_another_recipe_in_the_same_folder(start):
    start("one")
    with pytest.raises(UserError, match="head.dropout was 0.1 and is 0.5"):
        start("one", "head.dropout=0.5")


def write_records(path, labels):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for i, label in enumerate(labels):
            image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[encode(picture(i))]))
            number = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
            feature = {"image/encoded": image, "image/class/label": number}
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())


def test_records_with_names_of_classes_or_without(start, tmp_path, monkeypatch):
    for name in ("train", "test"):
        write_records(tmp_path / name, [i % 2 for i in range(8)])
    data = [f"data.source=tfrecord:{tmp_path}/train", f"data.eval_source=tfrecord:{tmp_path}/test"]
    task, best = start("numbers", *data, "steps=2")
    assert task.class_names == ("0", "1") and 0 <= best["accuracy"] <= 1
    assert "8 examples" in start.printed("numbers")
    with pytest.raises(UserError, match="tfrecord:.*train is read front to back, .* --eval_data"):
        start("no_test", data[0], "data.eval_source=null")
    with pytest.raises(UserError, match="label_fraction: tfrecord:.*train .* Name files: folder"):
        start("part", *data, "label_fraction=0.5")

    def open_tfds(spec, tfds_dir=None):  # as TFDS' are: records with names of their classes
        source = open_images(spec.replace("tfds", "tfrecord"))
        return dataclasses.replace(source, class_names=("cat", "dog"))

    monkeypatch.setattr("d2v_tf.training.finetune_vision.open_images", open_tfds)
    task, _ = start("names", *(line.replace("tfrecord", "tfds") for line in data), "steps=1")
    assert task.class_names == ("cat", "dog")
