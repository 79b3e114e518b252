"""`tools/pretrain.py --init` as a user runs it: from a published file, and from a run of ours."""

import json

import numpy as np
import pytest
import yaml

from tests.end_to_end.test_pretrain import losses, run
from tests.interop import published
from tests.interop.published import linear, torch

# Three and four processes, each of which compiles its step.
pytestmark = pytest.mark.slow
SETTINGS = [
    "steps=6",
    "checkpoint_every=3",
    "probe_every=0",
    "data.probe_examples=50",
    "model.relative_position_bias=shared",
    "model.absolute_position=false",
]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file of BEiT's data2vec with a regression head, for smaller images than the recipe's."""
    model = published.vision_model(
        hidden_size=16, num_attention_heads=2, intermediate_size=32, image_size=24
    )
    state = published.vision_state(model)
    state["lm_head.weight"], state["lm_head.bias"] = linear(16, 16)[0]
    path = tmp_path_factory.mktemp("published") / "checkpoint-799.pth"
    torch.save({"model": state, "epoch": 799}, path)
    return path


def back_to_step_3(workdir):
    for path in (workdir / "checkpoints").glob("step-6*"):
        path.unlink()


def test_from_a_file_and_resumed_with_and_without_the_flag(file, tmp_path):
    workdir = tmp_path / "run"
    done = run(f"--workdir={workdir}", f"--init={file}", settings=SETTINGS)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("init: ")]
    assert said[0].startswith(f"init: {file}: a BEiT file (data2vec's vision model), ")
    assert said[1:] == [
        "init: its positions are resized from images of (24, 24) to (32, 32)",
        "init: the teacher is a copy of the student, as it is when a run begins",
        "init: the regression head is from lm_head.weight, lm_head.bias",
    ]
    unbroken = losses(workdir)
    assert sorted(unbroken) == [1, 2, 3, 4, 5, 6] and np.isfinite(list(unbroken.values())).all()
    probed = [json.loads(line) for line in (workdir / "probes.jsonl").read_text().splitlines()]
    assert [record["of"] for record in probed] == ["raw pixels", "initial", "pre-trained"]
    assert yaml.safe_load((workdir / "config.yaml").read_text())["init"] == str(file)

    back_to_step_3(workdir)
    again = run(f"--workdir={workdir}", "--init=/elsewhere.pt", settings=SETTINGS)
    assert "resuming after step 3" in again.stdout, again.stderr
    assert f"init: not read; this run started from {file}" in again.stdout
    assert losses(workdir) == unbroken
    back_to_step_3(workdir)
    again = run(f"--workdir={workdir}", settings=SETTINGS)
    assert "resuming after step 3" in again.stdout, again.stderr
    assert "init:" not in again.stdout
    assert losses(workdir) == unbroken
    assert yaml.safe_load((workdir / "config.yaml").read_text())["init"] == str(file)


def test_a_second_half_from_the_first(tmp_path):
    first = run(
        f"--workdir={tmp_path}/first",
        settings=["steps=3", "probe_every=0", "data.probe_examples=50"],
    )
    assert first.returncode == 0, first.stderr
    second = [
        "steps=2",
        "probe_every=0",
        "data.probe_examples=50",
        "data2vec.ema=[0.9999, 0.9999, 0]",
    ]
    init = f"--init={tmp_path}/first"
    done = run(f"--workdir={tmp_path}/second", init, settings=second)
    assert done.returncode == 0, done.stderr
    assert "init: the teacher is a copy of the student" in done.stdout
    assert "init: the regression head is from its newest checkpoint" in done.stdout
    # The same weights give the same probes; the second run has its own updates from 1 on.
    scores = {}
    for name, of in (("first", "pre-trained"), ("second", "initial")):
        lines = (tmp_path / name / "probes.jsonl").read_text().splitlines()
        (scores[name],) = [r["linear"] for r in map(json.loads, lines) if r["of"] == of]
    assert scores["first"] == scores["second"]
    assert sorted(losses(tmp_path / "second")) == [1, 2]

    refused = run(f"--workdir={tmp_path}/third", init, settings=["model.num_layers=3"])
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert refused.stderr.splitlines()[-1] == (
        f"error: --init={tmp_path}/first is another model than the recipe's: num_layers is 2 and 3."
        " For a model like it: --set model.num_layers=2."
    )
    absent = run(f"--workdir={tmp_path}/fourth", "--init=nowhere.pt")
    assert absent.returncode == 1
    assert absent.stderr.splitlines()[-1].startswith("error: nowhere.pt: does not exist. Give ")
