"""Speech and text through the same tool: a run, its resume, its preset."""

import json

import numpy as np
import pytest

from tests.forked_tools import run_tool

SMALL = [
    "steps=6",
    "model.num_layers=2",
    "model.hidden_dim=32",
    "model.num_heads=2",
    "model.intermediate_dim=32",
    "data2vec.num_target_layers=2",
    "precision=float32",
    "xla=false",
    "log_every=1",
    "checkpoint_every=3",
    "probe_every=0",
]
SPEECH = ["batch_size=2", "data.probe_examples=60", "model.conv_dims=[8, 8, 8, 8, 8, 8, 8]"]
TEXT = ["batch_size=4", "model.vocabulary_size=500", "model.max_sequence_length=64"]


def run(modality, workdir, *settings):
    sets = [word for setting in (*SMALL, *settings) for word in ("--set", setting)]
    arguments = f"--modality={modality}", f"--workdir={workdir}", *sets
    done = run_tool("pretrain.py", *arguments, seconds=600)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def records(workdir, name="metrics.jsonl"):
    return [json.loads(line) for line in (workdir / name).read_text().splitlines()]


def resumed_equals_unbroken(modality, settings, folder):
    """Takes a finished run back to its checkpoint in the middle and lets it go on."""
    done = run(modality, folder, *settings)
    assert done.returncode == 0, done.stderr
    unbroken = {r["step"]: r["loss"] for r in records(folder)}
    assert sorted(unbroken) == [1, 2, 3, 4, 5, 6] and np.isfinite(list(unbroken.values())).all()
    for file in (folder / "checkpoints").glob("step-6*"):
        file.unlink()
    again = run(modality, folder, *settings)
    assert again.returncode == 0, again.stderr
    assert "resuming after step 3" in again.stdout
    assert {r["step"]: r["loss"] for r in records(folder)} == unbroken
    return done


def test_speech_runs_resumes_and_leaves_a_preset(tmp_path):
    import d2v_tf

    settings = [*SPEECH, f"data.cache_dir={tmp_path}/cache"]
    done = resumed_equals_unbroken("speech", settings, tmp_path / "run")
    assert "800 examples" in done.stdout and "8 s of audio an update" in done.stdout
    assert "read by soundfile and soxr" in " ".join(done.stdout.split())
    probed = {(r["of"], r["task"]) for r in records(tmp_path / "run", "probes.jsonl")}
    assert probed == {
        (of, task)
        for of in ("log-mel statistics", "untrained", "pre-trained")
        for task in ("digit", "speaker")
    }
    preset = str(tmp_path / "run" / "preset")
    backbone = d2v_tf.Data2VecSpeechBackbone.from_preset(preset)
    rng = np.random.default_rng(0)
    waveforms = [5 * rng.normal(size=n).astype("float32") + 1 for n in (2000, 1200)]
    inputs = d2v_tf.Data2VecAudioConverter.from_preset(preset)(waveforms)
    assert inputs["waveform"].shape == (2, 2000)
    np.testing.assert_allclose(inputs["waveform"][1, :1200].mean(), 0, atol=1e-4)
    np.testing.assert_allclose(inputs["waveform"][1, :1200].std(), 1, atol=1e-4)
    assert inputs["padding_mask"].sum(axis=1).tolist() == [2000, 1200]
    assert backbone(inputs).shape == (2, backbone.feature_lengths(2000), 32)


def test_text_runs_resumes_and_leaves_a_preset(tmp_path):
    import d2v_tf

    task = tmp_path / "greeting"
    task.mkdir()
    rows = "".join(f"hello there number {i}\tyes\nthe law of {i}\tno\n" for i in range(20))
    for name in ("train", "dev"):
        (task / f"{name}.tsv").write_text(f"sentence\tlabel\n{rows}")
    settings = [*TEXT, f"data.probe_folders=[{task}]"]
    done = resumed_equals_unbroken("text", settings, tmp_path / "run")
    assert "4 rows of 64, 256 tokens" in done.stdout
    probed = records(tmp_path / "run", "probes.jsonl")
    assert [(r["of"], r["task"]) for r in probed] == [
        ("bag of tokens", "greeting"),
        ("untrained", "greeting"),
        ("pre-trained", "greeting"),
    ]
    assert probed[0]["linear"] == 1.0
    preset = str(tmp_path / "run" / "preset")
    backbone = d2v_tf.Data2VecTextBackbone.from_preset(preset)
    token_ids = np.array(d2v_tf.Data2VecTextTokenizer.from_preset(preset)(["the law of the land"]))
    assert backbone({"token_ids": token_ids}).shape == (1, token_ids.shape[1], 32)


@pytest.mark.parametrize(
    ("modality", "settings", "message"),
    [
        ("speech", ["data.source=folder:/nowhere"], "folder:/nowhere is not a folder"),
        ("speech", ["batch_size=1", "accumulate=1", "data.min_seconds=9"], "data.min_seconds"),
        ("text", ["data.source=text:/nowhere/*.txt"], "/nowhere/*.txt"),
        ("text", ["model.vocabulary_size=100"], "model.vocabulary_size: 100 is not at least 261"),
    ],
)
def test_a_users_mistake_is_one_line(tmp_path, modality, settings, message):
    cache = [f"data.cache_dir={tmp_path}/cache"] if modality == "speech" else []
    done = run(modality, tmp_path / "run", *cache, *settings)
    assert done.returncode == 1 and message in done.stderr
