"""The benchmark tool: what it prints holds together. How fast anything is, no test says."""

import json

import pytest

from tests.forked_tools import run_tool

SMALL = [
    "model.num_layers=1",
    "model.hidden_dim=32",
    "model.num_heads=2",
    "model.intermediate_dim=32",
    "data2vec.num_target_layers=1",
]
MODALITIES = {
    "vision": (["batch_size=4"], {"images": [4, 32, 32, 3], "mask": [4, 64]}),
    "speech": (
        ["batch_size=2", "data.max_seconds=1.0", "model.conv_dims=[8, 8, 8, 8, 8, 8, 8]"],
        {"mask": [2, 49], "padding_mask": [2, 16000], "waveform": [2, 16000]},
    ),
    "text": (
        ["batch_size=4", "model.vocabulary_size=500", "model.max_sequence_length=64"],
        {
            "mask": [4, 64],
            "padding_mask": [4, 64],
            "target_token_ids": [4, 64],
            "token_ids": [4, 64],
        },
    ),
}


def benchmark(*arguments):
    done = run_tool("benchmark.py", *arguments)
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.mark.slow  # a process and six compilations each
@pytest.mark.parametrize("modality", MODALITIES)
def test_a_step_its_parts_and_its_input_are_measured(modality):
    settings, shapes = MODALITIES[modality]
    words = [word for setting in SMALL + settings for word in ("--set", setting)]
    flags = ["--precision=float32", "--xla=false", "--steps=3", "--json"]
    done = benchmark(f"--modality={modality}", *flags, *words)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["batch"] == shapes
    assert (result["precision"], result["xla"]) == ("float32", False)
    rows, positions = shapes["mask"]
    step = result["step"]["median"]
    assert 0 < result["step"]["low"] <= step <= result["step"]["high"]
    assert result["examples_per_second"] == pytest.approx(rows / step)
    assert result["positions_per_second"] == pytest.approx(rows * positions / step)
    assert list(result["parts"]) == [
        "frontend",
        "teacher and targets",
        "student and loss",
        "backward",
        "optimizer and EMA",
    ]
    assert result["input"]["examples_per_second"] > 0 and result["peak_memory"]["host"] > 1e8


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--size=huge"], "--size: 'huge' is not one of base, small, tiny"),
        (["--batch=4", "--set", "model.num_heads=7"], "model.num_heads"),
        (["--data=text:/nowhere/*.txt"], "/nowhere/*.txt"),
        (["--set", "accumulate=4"], "--set accumulate=1 --batch=16"),
    ],
)
def test_a_users_mistake_is_one_line(flags, message):
    done = benchmark("--modality=text", *flags)
    assert done.returncode == 1 and message in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--modality=vision,text"], "several modalities or batches are only for --serving"),
        (["--modality=vision", "--batch=1,8"], "only for --serving"),
        (["--modality=vision,smell", "--serving"], "one of vision, speech, text"),
        (["--modality=vision", "--batch=0"], "numbers from 1 on"),
        (["--modality=text", "--serving", "--precision=bfloat16"], "--precision is of no use"),
    ],
)
def test_wrong_flags(flags, message):
    done = benchmark(*flags)
    assert done.returncode == 1 and message in done.stderr + done.stdout


@pytest.mark.slow  # a process, and two models each in two libraries
def test_answers_of_several_modalities_in_one_table():
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
    pytest.importorskip("transformers", reason="transformers is not installed")
    flags = ["--serving", "--size=tiny", "--batch=1,2", "--steps=1"]
    done = benchmark("--modality=vision,text", *flags)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    cells = [row.strip("| ").split(" | ") for row in rows]
    assert [row[0] for row in cells[2:]] == ["JPEGs of 375 x 500", "2", "texts of 128 tokens", "2"]
    assert done.stderr.count("load average") == 2


def test_images_that_cannot_be_read_are_named(tmp_path):
    for i in range(8):
        (tmp_path / f"{i}.jpg").write_bytes(b"no image")
    done = benchmark("--modality=vision", f"--data=folder:{tmp_path}", "--batch=4")
    message = f"folder:{tmp_path}"
    assert done.returncode == 1 and message in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1
