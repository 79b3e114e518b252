"""Reports of tiny runs of each modality, and what is written to TensorBoard on the way."""

import html
import io
import json
import re
import shutil
import sys

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from d2v_tf.config import ConfigError, load_recipe
from d2v_tf.reporting import speech, text, vision
from d2v_tf.reporting.figures import COLORS
from d2v_tf.training import report as training_report
from d2v_tf.training.guard import RunStopped
from d2v_tf.training.logs import read_json_lines
from d2v_tf.training.pretrain import pretrain
from d2v_tf.training.profiling import ProfileError, parse_profile
from d2v_tf.training.report import (
    ReportError,
    names_of,
    open_record,
    report,
    say_how_to_look,
)
from tests.data.audio import write_tree
from tests.data.texts import write_corpus
from tests.reporting.browser import console_of

TINY = [
    "steps=6",
    "model.num_layers=2",
    "model.hidden_dim=16",
    "model.num_heads=2",
    "model.intermediate_dim=32",
    "model.dropout=0.1",  # random numbers that looking on must not draw
    "data2vec.num_target_layers=2",
    "precision=float32",
    "xla=false",
    "log_every=2",
]
SPEECH = ["model.conv_dims=[8, 8, 8, 8, 8, 8, 8]", "data.max_seconds=1", "batch_size=2"]
TEXT = ["model.vocabulary_size=300", "model.max_sequence_length=32", "batch_size=4"]


def run(workdir, modality, settings, **options):
    """Pre-trains; returns what was printed."""
    console = Console(file=io.StringIO(), width=200)
    recipe = load_recipe(f"configs/pretrain/{modality}_tiny.yaml", [*TINY, *settings], modality)
    pretrain(recipe, str(workdir), console, **options)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(folder of runs, what each of them printed)."""
    root = tmp_path_factory.mktemp("runs")
    sound, corpus = root / "sound", root / "corpus"
    write_tree(sound, [1.2, 0.8, 0.9] * 8, classes=("all",))  # one folder: no labels
    write_corpus(corpus, number=2)
    vision_settings = ["batch_size=8", "data.probe_examples=60"]
    said = {
        "vision": run(root / "vision", "vision", [*vision_settings, "checkpoint_every=2"]),
        "quiet": run(
            root / "quiet", "vision", [*vision_settings, "log_every=1"], quiet=True, profile="3:4"
        ),
        "speech": run(root / "speech", "speech", [*SPEECH, f"data.source=folder:{sound}/all"]),
        "text": run(root / "text", "text", [*TEXT, f"data.source=text:{corpus}/*.txt"]),
    }
    return root, said


@pytest.mark.parametrize("name", ["vision", "quiet", "speech", "text"])
def test_a_run_ends_with_its_report(runs, name):
    root, said = runs
    path = root / name / "report.html"
    assert f"report: {path}" in said[name] and "warning" not in said[name]
    page = path.read_text(encoding="utf-8")
    for title in ("Over the updates", "Masks", "What the features see", "Nearest neighbors"):
        assert f"<h2>{title}</h2>" in page
    # Labels are there for the digits alone.
    labelled = name in ("vision", "quiet")
    assert ("What the features are worth" in page) == labelled
    assert ("have the example&#x27;s own label" in page or "own label;" in page) == labelled
    assert "tensorflow 2." in page and "6 of 6" in page and "after the last of 6 updates" in page
    # Nothing is loaded from anywhere.
    assert "<script" not in page and "<link" not in page and "@import" not in page
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources and all(s.startswith(("data:image/png;base64,", "#")) for s in sources)
    assert all(inside.startswith("#") for inside in re.findall(r"url\(([^)]*)\)", page))


@pytest.fixture(scope="module")
def side_by_side(runs, tmp_path_factory):
    """The page of all runs."""
    root, said = runs
    page = tmp_path_factory.mktemp("pages") / "all.html"
    report([str(root / name) for name in said], str(page))
    return page


@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_has_nothing_to_complain_of(side_by_side, tmp_path, dark):
    assert console_of(side_by_side, tmp_path / "all.png", dark) == []
    background = tf.io.decode_png((tmp_path / "all.png").read_bytes()).numpy()[2, 2, :3]
    assert (background < 40).all() if dark else (background > 240).all()
    # A page that loads something is noticed: the look at the console sees errors.
    broken = tmp_path / "broken.html"
    content = side_by_side.read_text(encoding="utf-8")
    broken.write_text(content.replace("</body>", '<img src="http://x.test/a.png"></body>'))
    assert any("Content Security Policy" in line for line in console_of(broken))


def test_runs_side_by_side(runs, side_by_side):
    root, _ = runs
    with pytest.raises(ReportError, match="--out: say which file"):
        report(["a", "b"])
    page = side_by_side.read_text(encoding="utf-8")
    assert "<h1>vision and quiet and speech and text</h1>" in page
    rows = re.findall(r"<tr><td>([a-z_.]+)</td><td>(.*?)</td></tr>", page)
    differ = {key: cells.split("</td><td>") for key, cells in rows}
    assert differ["checkpoint_every"] == ["2", "500", "500", "500"]
    assert differ["log_every"] == ["2", "1", "2", "2"]
    assert "seed" not in differ  # the same for all
    curves = page.split("<h2>Over the updates</h2>")[1].split("<h2>")[0]
    legend = re.search('<div class="legend">(.*?)</div>', curves).group(1)
    shown = re.findall(r'background: (#\w+)"></span>(\w+)</span>', legend)
    assert shown == list(zip(COLORS, ("vision", "quiet", "speech", "text"), strict=False))
    alone = (root / "text" / "report.html").read_text(encoding="utf-8")
    assert '<div class="legend">' not in alone  # neither two runs nor labels


def test_quiet_prints_nothing_but_the_end(runs):
    root, said = runs
    assert "step 6/6" in said["vision"] and "8 examples an update" in said["vision"]
    *above, backbone, page = said["quiet"].splitlines()
    assert (backbone, page) == (
        f"backbone: {root}/quiet/preset",
        f"report: {root}/quiet/report.html",
    )
    assert not any(word in line for line in above for word in ("step 1", "compiling", "batch"))


def test_looking_on_changes_no_number(runs):
    """One run was looked at every other update, the other at its ends only, and profiled."""
    root, _ = runs
    often, rarely = (read_json_lines(root / n / "metrics.jsonl") for n in ("vision", "quiet"))
    losses = {r["step"]: r["loss"] for r in rarely}
    assert [r["step"] for r in often] == [1, 2, 4, 6]
    assert [r["loss"] for r in often] == [losses[r["step"]] for r in often]


def test_tensorboard_has_the_recipe_spreads_and_pictures(runs):
    root, _ = runs
    for name, looked_at in (("vision", {0, 2, 4, 6}), ("speech", {0, 6}), ("text", {0, 6})):
        tags = {}
        for file in (root / name / "tensorboard").glob("events*"):
            for record in tf.data.TFRecordDataset(str(file)):
                event = tf.compat.v1.Event.FromString(record.numpy())
                for value in event.summary.value:
                    tags.setdefault(value.tag, {})[event.step] = value
        first = "/0" if name == "speech" else ""
        for tag in ("targets", "predictions", f"features{first}"):
            assert set(tags[tag]) == looked_at
        assert set(tags["recipe"]) == set(tags[f"masks{first}"]) == {0}
        assert b"num_layers: 2" in tf.make_ndarray(tags["recipe"][0].tensor).item()
        counts = tf.make_ndarray(tags["targets"][6].tensor)[:, 2]
        assert counts.sum() % 16 == 0 and counts.sum() > 0  # D = 16, at masked positions


def test_the_profile_is_where_it_says(runs):
    root, said = runs
    assert f"profile: {root}/quiet/tensorboard/plugins/profile; to see it" in said["quiet"]
    assert list((root / "quiet" / "tensorboard" / "plugins" / "profile").rglob("*.xplane.pb"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("5", "give FIRST:LAST"),
        ("9:7", "give FIRST:LAST"),
        ("3:12", "makes updates 1 to 10"),
    ],
)
def test_updates_that_cannot_be_profiled(given, message):
    assert parse_profile("3:10", start=2, steps=10) == (3, 10)
    with pytest.raises(ProfileError, match=message):
        parse_profile(given, start=2, steps=10)


def test_a_run_that_goes_on_behind_its_profile_is_not_refused():
    assert parse_profile("3:5", start=3, steps=10) is None
    assert parse_profile("3:10", start=10, steps=10) is None


def test_what_the_pictures_hide_is_what_the_student_has_to_predict(runs):
    root, _ = runs
    record = open_record(str(root / "vision"))
    batch = record.data.first_examples(3)
    trained = next(iter(record.data.batches(0)))  # the run's own first update
    for name in batch:
        np.testing.assert_array_equal(batch[name], trained[name][:3])
    pixels = vision.masked_images(batch, record.data)
    for b in range(3):
        for i in range(8):
            for j in range(8):
                patch = pixels[b, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
                if batch["mask"][b, 8 * i + j]:
                    assert (patch == vision.HIDDEN).all()
                else:
                    shown = (batch["images"][b, 4 * i, 4 * j].numpy() * 0.25 + 0.5) * 255
                    np.testing.assert_allclose(patch[0, 0], shown, atol=0.51)
    record = open_record(str(root / "text"))
    batch = record.data.first_examples(1)
    row = text.row_of(batch, 0, record.data)
    assert [token.hidden for token in row] == batch["mask"][0].numpy()[: len(row)].tolist()
    assert all((token.seen == "<mask>") == token.hidden for token in row)
    assert speech.spans(np.array([1, 1, 0, 0, 1, 0, 1], bool)) == [(0, 2), (4, 5), (6, 7)]


def test_a_broken_last_line_and_data_that_is_gone(runs, tmp_path):
    root, _ = runs
    workdir = tmp_path / "run"
    workdir.mkdir()
    for name in ("config.yaml", "metrics.jsonl"):
        (workdir / name).write_text((root / "text" / name).read_text())
    with open(workdir / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "lo')
    (root / "corpus").rename(tmp_path / "elsewhere")
    said = []
    try:
        report([str(workdir)], warn=said.append)
    finally:
        (tmp_path / "elsewhere").rename(root / "corpus")
    page = (workdir / "report.html").read_text()
    assert "6 of 6" in page and "Over the updates" in page and "<h2>Masks" not in page
    assert "the data cannot be read" in said[0] and "corpus" in said[0]
    assert "the data cannot be read" in page
    assert "for there is no preset and no checkpoint yet" in said[1] and len(said) == 2


def test_folders_that_are_no_runs(tmp_path):
    with pytest.raises(ReportError, match="no folder of a run: it has no config.yaml"):
        report([str(tmp_path)])
    (tmp_path / "config.yaml").write_text("seed: [\n")
    with pytest.raises(ConfigError, match="config.yaml, line 2: not a YAML file"):
        report([str(tmp_path)])


def test_a_report_that_fails_does_not_lose_the_run(runs, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no such color")

    root, _ = runs
    monkeypatch.setattr(training_report, "write_report", fail)
    (root / "vision" / "report.html").rename(tmp_path / "report.html")
    settings = ["batch_size=8", "data.probe_examples=60", "checkpoint_every=2"]
    said = run(root / "vision", "vision", settings)  # it is finished, and has no report
    (tmp_path / "report.html").rename(root / "vision" / "report.html")
    assert "the report could not be written (RuntimeError: no such color)" in said
    assert f" tools/report.py --workdir={root}/vision" in said
    assert f"backbone: {root}/vision/preset" in said
    assert json.loads((root / "vision" / "starts.jsonl").read_text())["step"] == 0


def test_a_picture_that_fails_does_not_lose_the_curves(runs, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no such color")

    root, _ = runs
    monkeypatch.setattr("d2v_tf.reporting.report.neighbors", fail)
    (root / "vision" / "report.html").rename(tmp_path / "report.html")
    settings = ["batch_size=8", "data.probe_examples=60", "checkpoint_every=2"]
    said = run(root / "vision", "vision", settings)
    page = (root / "vision" / "report.html").read_text()
    (tmp_path / "report.html").replace(root / "vision" / "report.html")
    problem = "no section 'Nearest neighbors', for it could not be made "
    problem += "(RuntimeError: no such color)"
    assert html.escape(problem) in page and f"the report has {problem}" in said
    assert "Over the updates" in page and "<h2>Nearest neighbors" not in page
    assert "<h2>Masks" in page and "<h2>What the features see" in page and "<h2>All of" in page
    assert f"report: {root}/vision/report.html" in said


def test_a_report_of_the_middle_of_a_run_is_written_anew_at_its_end(runs):
    root, _ = runs
    path = root / "vision" / "report.html"
    whole, settings = path.read_text(encoding="utf-8"), ["batch_size=8", "data.probe_examples=60"]
    settings.append("checkpoint_every=2")
    mark = '<meta name="d2v-step" content="{}">'
    assert whole.count(mark.format(6)) == 1
    for stale in (whole.replace(mark.format(6), mark.format(4)), "of before there was a mark"):
        path.write_text(stale, encoding="utf-8")
        assert f"report: {path}" in run(root / "vision", "vision", settings)
        assert path.read_text(encoding="utf-8") == whole
    # One of the last update stays, unless the run has only now got to its end.
    path.write_text(f"{mark.format(6)} mine")
    assert f"report: {path}" not in run(root / "vision", "vision", settings)
    assert path.read_text() == f"{mark.format(6)} mine"
    shutil.rmtree(root / "vision" / "preset")
    run(root / "vision", "vision", settings)
    assert path.read_text(encoding="utf-8") == whole


@pytest.mark.parametrize("reason", [KeyboardInterrupt, RunStopped("The loss is nan")])
def test_a_run_that_ends_early_names_the_command_to_see_it(tmp_path, reason):
    console = Console(file=io.StringIO(), width=200)
    workdir = tmp_path / "a run"
    workdir.mkdir()

    def stop():
        with pytest.raises((KeyboardInterrupt, RunStopped)), say_how_to_look(str(workdir), console):
            raise reason
        return console.file.getvalue()

    assert stop() == ""  # nothing was logged yet
    (workdir / "metrics.jsonl").touch()
    command = f"{sys.executable} tools/report.py '--workdir={workdir}'"
    assert stop() == f"to see what the run did so far: {command}\n"


def test_names_tell_folders_apart():
    assert names_of(["runs/a", "/x/b/"]) == ["a", "b"]
    assert names_of(["/x/one/seed_0", "/x/two/seed_0"]) == ["one/seed_0", "two/seed_0"]
