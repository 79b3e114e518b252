"""Fine-tuning runs on a few recordings: CTC with a frozen phase, classes beside tags."""

import io
import os

import numpy as np
import pytest
import soundfile
import tensorflow as tf
from rich.console import Console

import d2v_tf
from d2v_tf.config import ConfigError, load_finetune_recipe
from d2v_tf.data.reading import DataError
from d2v_tf.data.speech_records import serialize_utterance
from d2v_tf.training import finetune as finetuning
from d2v_tf.training.finetune import finetune
from d2v_tf.training.logs import read_json_lines
from tests.interop.tiny import make_backbone

RECIPE = """
modality: speech
task: ctc
batch_size: 2
steps: 6
precision: float32
xla: parts
log_every: 1
optimizer: {learning_rate: 0.01}
head: {time_mask_ratio: 0.3, time_mask_length: 2, channel_mask_ratio: 0.2, channel_mask_length: 2}
freeze: {frontend: true, backbone_steps: 66%}  # 4
evaluate_every: 3
checkpoint_every: 3
data: {max_seconds: 0.2, buckets: 1}
"""


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Eight short recordings with transcripts, classes and tags, and a backbone for them."""
    root = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    table, paths = ["path\tclass\ttags"], []
    for i in range(8):
        samples = 2000 + 100 * i
        soundfile.write(root / f"{i}.wav", 0.1 * rng.standard_normal(samples), 16_000)
        table.append(f"{i}.wav\t{'xy'[i % 2]}\t{('hum', 'hiss', 'hum,hiss')[i % 3]}")
        paths.append(f"{i}.wav\t{samples}")
    (root / "sounds.tsv").write_text("\n".join(table) + "\n")
    (root / "list.tsv").write_text("\n".join([".", *paths]) + "\n")
    # Only the last one has a Q.
    words = ["a b", "b", "a", "b a", "a b", "b b", "a", "q"]
    (root / "list.wrd").write_text("\n".join(words) + "\n")
    make_backbone("speech_invariant").save_to_preset(str(root / "preset"))
    return root


@pytest.fixture
def start(sounds, tmp_path):
    """A function that runs the recipe with some keys set."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)

    def run(name, *settings, source=f"manifest:{sounds}/list.tsv"):
        data = [f"data.source={source}", f"data.eval_source={source}", f"init={sounds}/preset"]
        recipe = load_finetune_recipe(str(tmp_path / "recipe.yaml"), [*data, *settings])
        printed[name] = io.StringIO()
        return finetune(recipe, str(tmp_path / name), Console(file=printed[name], width=1000))

    printed = {}
    run.printed = lambda name: printed[name].getvalue()
    return run


def losses(folder):
    return {record["step"]: record["loss"] for record in read_json_lines(folder / "metrics.jsonl")}


def test_a_run_stopped_while_the_backbone_is_frozen_goes_on_exactly(start, tmp_path, monkeypatch):
    _, best = start("whole")
    measure = finetuning.Evaluations.measure

    def stop(self, step):
        measure(self, step)
        monkeypatch.setattr(finetuning.Evaluations, "measure", measure)
        raise KeyboardInterrupt

    monkeypatch.setattr(finetuning.Evaluations, "measure", stop)
    with pytest.raises(KeyboardInterrupt):
        start("stopped", "checkpoint_every=2")
    monkeypatch.undo()
    start("stopped", "checkpoint_every=2")
    assert "resuming after step 2" in start.printed("stopped")
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    assert os.path.exists(tmp_path / "stopped" / "preset" / "task.json")
    rates = [r["wer"] for r in read_json_lines(tmp_path / "whole" / "evaluations.jsonl")]
    assert best["wer"] == min(rates)


def test_a_frozen_backbone_keeps_its_mask_token_too(start, sounds):
    task, _ = start("frozen", "freeze.backbone_steps=100%")
    first = d2v_tf.load_backbone(sounds / "preset", verbose=False)
    for weight, before in zip(task.backbone.weights, first.weights, strict=True):
        np.testing.assert_array_equal(weight, before, weight.path)


def test_a_frozen_frontend_is_its_convolutions_as_in_wav2vec(start, sounds):
    task, _ = start("thawed", "evaluate_every=6", "xla=false")  # the best weights are the last
    first = d2v_tf.load_backbone(sounds / "preset", verbose=False)
    pairs = zip(task.backbone.frontend.weights, first.frontend.weights, strict=True)
    moved = [w.path for w, before in pairs if not np.array_equal(w, before)]
    layers = {path.split("frontend/")[1].split("/")[0] for path in moved}
    assert layers == {"feature_norm", "projection"}


def test_letters_are_those_of_all_recordings(start):
    task, _ = start("few", "label_fraction=0.25", "steps=1")
    assert "q" in task.vocabulary  # of one recording of eight


def test_letters_that_only_the_set_measured_on_has_count_as_errors(start, sounds, tmp_path):
    for name in ("dev", "silent"):
        (sounds / f"{name}.tsv").write_text((sounds / "list.tsv").read_text())
    (sounds / "dev.wrd").write_text("\n".join(["a b", "zä", "a z", *"bbbbb"]) + "\n")
    dev = f"data.eval_source=manifest:{sounds}/dev.tsv"
    _, best = start("dev", "steps=1", dev)
    assert "list.tsv has: 'z' 2 times, 'ä' 1 times. The model" in start.printed("dev")
    assert 0 < best["cer"]
    for where in ("data.eval_source", "data.source"):
        with pytest.raises(DataError, match="silent.tsv has no transcripts. Put NAME.ltr"):
            start("silent", f"{where}=manifest:{sounds}/silent.tsv")


def test_classes_where_there_are_tags_too(start, sounds):
    table = f"table:{sounds}/sounds.tsv"
    head = ["task=classify", "steps=1", "head.time_mask_ratio=0.2"]
    task, _ = start("classes", *head, source=table)
    assert task.class_names == ("x", "y") and task.time_mask_ratio == 0.2
    with pytest.raises(DataError, match="has tags, any number of them a recording: .*--task=tag"):
        start("tags", *head, "data.label=tags", source=table)
    task, _ = start("tagged", "task=tag", "steps=1", source=table)
    assert task.class_names == ("hiss", "hum")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Six short recordings of two classes, front to back."""
    path = tmp_path_factory.mktemp("records") / "part"
    rng = np.random.default_rng(0)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for i in range(6):
            wave = 0.1 * rng.standard_normal(2000 + 500 * i)
            writer.write(serialize_utterance(wave, f"{i}", text="a b", label=i % 2))
    return f"tfrecord:{path}"


def test_classes_of_records(start, records):
    settings = ["task=classify", "steps=null", "epochs=1", "evaluate_every=100%", "xla=false"]
    model, best = start("records", *settings, source=records)
    assert model.class_names == ("0", "1") and best["step"] == 3  # of 6 recordings, 2 an update
    with pytest.raises(DataError, match="label_fraction: tfrecord:.* Name files: .* table:FILE"):
        start("part", *settings, "label_fraction=0.5", source=records)


def test_recognition_of_records_is_refused(start, records):
    with pytest.raises(DataError, match="tfrecord:.*part is read front to back, and recognition"):
        start("records", source=records)
    with pytest.raises(DataError, match="tfrecord:.*part is read front to back, and recognition"):
        start("records", "data.eval_source=null", source=records)


@pytest.mark.parametrize(
    "setting", ["head.label_smoothing=0.1", "data.mixup=0.7", "data.label=class"]
)
def test_keys_that_recognition_has_no_use_for(start, setting):
    with pytest.raises(ConfigError, match=f"{setting.split('=')[0]}: .* no use to the task ctc"):
        start("no", setting)
