"""`tools/finetune.py` and `tools/evaluate.py` as a user runs them, in processes of their own."""

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import d2v_tf
from d2v_tf.data.tokenization import train_tokenizer
from d2v_tf.interop.loading import backbone_class_in
from tests.data.images import write_tree
from tests.forked_tools import run_tool as run
from tests.interop.tiny import make_backbone

TOOLS = Path(__file__).resolve().parents[2] / "tools"
SHORT = [
    "--set=steps=4",
    "--set=epochs=null",
    "--set=precision=float32",
    "--set=xla=false",
    "--set=log_every=1",
]


def run_anew(tool, *arguments):
    """Not forked: what the tool imports is imported."""
    return subprocess.run(
        [sys.executable, str(TOOLS / tool), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos, tones with a table, a GLUE task, and a preset of a backbone for each."""
    root = tmp_path_factory.mktemp("finetune")
    write_tree(root / "photos" / "train", 12)
    write_tree(root / "photos" / "test", 5)
    rng = np.random.default_rng(0)
    (root / "sounds").mkdir()
    lines = ["path\ttags\tpart"]
    for i in range(12):
        path = root / "sounds" / f"{i}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(16_000), 16_000, subtype="PCM_16")
        lines.append(f"{path.name}\t{('hum', 'hiss', 'hum,hiss')[i % 3]}\t{'ab'[i > 7]}")
    (root / "sounds" / "tags.tsv").write_text("\n".join(lines) + "\n")
    for name, numbers in (("train", range(8)), ("dev", range(8, 12))):
        said = [("one two", "two", "on", "no two")[i % 4] for i in numbers]
        (root / "sounds" / f"{name}.wrd").write_text("\n".join(said) + "\n")
        paths = [f"{i}.wav\t16000" for i in numbers]
        (root / "sounds" / f"{name}.tsv").write_text("\n".join([".", *paths]) + "\n")
    (root / "glue" / "RTE").mkdir(parents=True)
    for split, count in (("train", 12), ("dev", 4)):
        rows = ["index\tsentence1\tsentence2\tlabel"]
        for i in range(count):
            label = ("entailment", "not_entailment")[i % 2]
            rows.append(f"{i}\ta cat sat {i}\ta cat was there\t{label}")
        (root / "glue" / "RTE" / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    make_backbone("vision_per_block").save_to_preset(str(root / "vision"))
    converter = d2v_tf.Data2VecImageConverter(image_size=(12, 12), scale=1 / 127.5, offset=-1.0)
    converter.save_to_preset(str(root / "vision"))
    make_backbone("speech_invariant").save_to_preset(str(root / "speech"))
    d2v_tf.Data2VecAudioConverter().save_to_preset(str(root / "speech"))
    make_backbone("text", vocabulary_size=270, max_sequence_length=24).save_to_preset(
        str(root / "text")
    )
    train_tokenizer(["a cat sat there"], 265).in_graph().save_to_preset(str(root / "text"))
    return root


@pytest.fixture(scope="module")
def photo_run(folder):
    """Two seeds of a classifier of photos: the modality is the backbone's."""
    done = run_anew(
        "finetune.py",
        "--task=classify",
        f"--init={folder}/vision",
        f"--data=folder:{folder}/photos/train",
        f"--eval_data=folder:{folder}/photos/test",
        f"--workdir={folder}/run",
        "--seeds=0,1",
        "--label_fraction=0.5",
        "--set=batch_size=4",
        *SHORT,
    )
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout


def test_classify_with_seeds(photo_run):
    workdir, output = photo_run
    records = json.loads((workdir / "seeds.json").read_text())
    page = (workdir / "report.html").read_text()
    assert output.splitlines()[-1] == f"report: {workdir}/report.html"
    assert f"{workdir.name}/seed_1" in page and f"{workdir.name}, 2 seeds" in page
    assert (workdir / "seed_1" / "report.html").exists()
    assert list(records) == ["0", "1"]
    mean = np.mean([record["accuracy"] for record in records.values()])
    assert f"accuracy: mean {mean:.4f}, deviation " in output
    for seed in "01":
        assert (workdir / f"seed_{seed}" / "preset" / "task.json").exists()
    assert "Data2VecImageClassifier" in output and "12 examples" in output


def test_evaluate_measures_as_the_run_did(photo_run, folder):
    workdir, _ = photo_run
    recorded = json.loads((workdir / "seeds.json").read_text())["0"]["accuracy"]
    done = run_anew(
        "evaluate.py",
        f"--model={workdir}/seed_0",
        f"--data=folder:{folder}/photos/test",
        f"--out={folder}/report",
        "--num_worst=2",
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "report" / "evaluation.json").read_text())
    assert report["scores"]["accuracy"] == pytest.approx(recorded)
    assert (folder / "report" / "confusion.png").read_bytes()[:4] == b"\x89PNG"
    low, high = report["intervals"]["accuracy"]
    assert low <= recorded <= high
    assert "accuracy" in done.stdout and str(folder / "report") in done.stdout


def test_predict_and_features_of_files(photo_run, folder):
    workdir, _ = photo_run
    photo = sorted((folder / "photos" / "test").rglob("*.*"))[0]
    broken = folder / "broken.jpg"
    broken.write_bytes(b"no picture")
    done = run(
        "evaluate.py", f"--model={workdir}/seed_0", "--predict", "--max_bad=1", photo, broken
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith(f"{photo}\t")]
    classes = d2v_tf.load_task(workdir / "seed_0", verbose=False).class_names
    assert len(lines) == 1 and lines[0].split("\t")[1] in classes
    assert "warning: " in done.stdout and str(broken) in done.stdout
    done = run(
        "evaluate.py",
        f"--model={folder}/vision",
        f"--data=folder:{folder}/photos/test",
        f"--features={folder}/features.npz",
    )
    assert done.returncode == 0, done.stderr
    with np.load(folder / "features.npz") as arrays:
        assert arrays["features"].shape == (5, 12) and len(arrays["names"]) == 5


def test_tags_from_a_table(folder):
    done = run(
        "finetune.py",
        "--task=tag",
        f"--init={folder}/speech",
        f"--data=table:{folder}/sounds/tags.tsv?part=a",
        f"--eval_data=table:{folder}/sounds/tags.tsv?part=b",
        f"--workdir={folder}/tags",
        "--set=batch_size=2",
        *SHORT,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((folder / "tags" / "evaluations.jsonl").read_text().splitlines()[-1])
    assert 0 <= record["mean_average_precision"] <= 1
    assert "2 classes: hiss, hum" in done.stdout


def test_recognition_from_a_run_to_a_transcript(folder):
    done = run(
        "finetune.py",
        "--task=ctc",
        f"--init={folder}/speech",
        f"--data=manifest:{folder}/sounds/train.tsv",
        f"--eval_data=manifest:{folder}/sounds/dev.tsv",
        f"--workdir={folder}/ctc",
        "--set=batch_size=4",
        "--set=data.max_seconds=1.1",
        "--quiet",
        *SHORT,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [
        f"model: {folder}/ctc/preset",
        f"report: {folder}/ctc/report.html",
    ]
    assert "cer" in done.stdout and "loss" not in done.stdout
    lines = (folder / "ctc" / "evaluations.jsonl").read_text().splitlines()
    best = min(map(json.loads, lines), key=lambda record: record["wer"])
    done = run(
        "evaluate.py",
        f"--model={folder}/ctc",
        f"--data=manifest:{folder}/sounds/dev.tsv",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout)["scores"]
    assert scores == pytest.approx({"wer": best["wer"], "cer": best["cer"]})


def test_a_run_that_is_stopped_says_how_to_go_on(folder):
    arguments = [
        "--task=tag",
        f"--init={folder}/speech",
        f"--data=table:{folder}/sounds/tags.tsv?part=a",
        f"--eval_data=table:{folder}/sounds/tags.tsv?part=b",
        f"--workdir={folder}/stopped",
        "--set=batch_size=2",
        *SHORT,
        "--set=steps=4000",
    ]
    command = [sys.executable, str(TOOLS / "finetune.py"), *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as tool:
        while not (line := tool.stdout.readline()).startswith("step 2/"):
            assert line or tool.poll() is None, tool.stderr.read()
        tool.send_signal(signal.SIGINT)
        _, errors = tool.communicate(timeout=100)
    assert tool.returncode == 130
    said, again = errors.splitlines()  # and nothing of TensorFlow's
    assert said == f"stopped; the same command continues the run in {folder}/stopped:"
    assert shlex.split(again) == command


def test_the_modality_is_what_the_recipe_or_the_start_says(folder):
    for start, class_ in (("vision", "VisionBackbone"), ("speech", "Speech"), ("text", "Text")):
        assert class_ in backbone_class_in(f"{folder}/{start}").__name__
    config = Path(TOOLS).parent / "configs" / "finetune" / "vision_tiny.yaml"
    nowhere = "--data=folder:nowhere", f"--workdir={folder}/none"
    done = run("finetune.py", "--task=classify", "--init=scratch", f"--config={config}", *nowhere)
    assert done.returncode == 1 and "nowhere" in done.stderr and "modality" not in done.stderr


def test_a_task_of_glue(folder):
    done = run(
        "finetune.py",
        "--task=glue:RTE",
        f"--init={folder}/text",
        f"--data=folder:{folder}/glue",
        f"--workdir={folder}/rte",
        "--set=batch_size=4",
        *SHORT,
    )
    assert done.returncode == 0, done.stderr
    preprocessor = json.loads((folder / "rte" / "preset" / "preprocessor.json").read_text())
    assert preprocessor["config"]["pairs"] is True  # as a server asks it
    done = run(
        "evaluate.py",
        f"--model={folder}/rte",
        f"--data=folder:{folder}/glue",
        "--task=glue:RTE",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    recorded = json.loads((folder / "rte" / "evaluations.jsonl").read_text().splitlines()[-1])
    scores = json.loads(done.stdout)["scores"]
    assert scores["accuracy"] == pytest.approx(recorded["accuracy"])


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("finetune.py", ["--task=classify", "--init=scratch"], "give --modality"),
        (
            "finetune.py",
            ["--task=classify", "--init=scratch", "--modality=vision", "--strategy=mirrored"],
            "error: --strategy=mirrored takes at least two GPUs, and TensorFlow sees no GPU. ",
        ),
        (
            "finetune.py",
            ["--task=ctc", "--init=nowhere"],
            "error: nowhere: does not exist. ",
        ),
        (
            "evaluate.py",
            ["--model=nowhere", "--data=folder:nowhere"],
            "error: nowhere: does not exist. ",
        ),
        ("evaluate.py", ["--model=nowhere"], "Name the examples by --data=SOURCE"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tool, arguments, message):
    done = run(tool, *arguments)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


def test_fine_tuning_has_one_machine():
    done = run("finetune.py", "--task=classify", "--init=scratch", "--strategy=multiworker")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "--strategy=multiworker: value should be one of <auto|cpu|mirrored>" in done.stderr
