"""`tools/report.py` as a user runs it, on runs that stopped and on runs whose data has changed."""

import re
import subprocess
import sys

import pytest

from tests.data.images import encode, picture
from tests.data.test_vision_sources import write_records
from tests.data.texts import write_corpus
from tests.end_to_end.test_pretrain import ROOT, TINY, losses, run
from tests.forked_tools import run_tool

STEPS = "steps=10"
# In the order of the files, of which the third has a broken record: after two files' updates.
SETTINGS = [STEPS, "checkpoint_every=1", "data.shuffle=false"]


def report(*workdirs, out=None):
    """Runs the tool, which must not fail; returns what it printed, and the page."""
    more = [f"--out={out}"] if out else []
    done = run_tool("report.py", *(f"--workdir={w}" for w in workdirs), *more)
    assert done.returncode == 0, done.stdout + done.stderr
    page = out or workdirs[0] / "report.html"
    assert done.stdout.splitlines()[-1] == f"report: {page}"
    return done.stdout, page.read_text(encoding="utf-8")


def titles(page):
    return re.findall("<h2>(.*?)</h2>", page)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that a corrupt shard stopped: (workdir, the shard, its right bytes, what it said)."""
    root = tmp_path_factory.mktemp("stopped")
    (root / "shards").mkdir()
    for part in range(4):
        examples = [(f"{part}-{i}", encode(picture(i)), None) for i in range(32)]
        write_records(root / "shards" / f"part-{part}.tfrecord", examples)
    shard = root / "shards" / "part-2.tfrecord"
    good = shard.read_bytes()
    shard.write_bytes(good[:-300] + bytes([good[-300] ^ 1]) + good[-299:])
    done = run(f"--data=tfrecord:{root}/shards", f"--workdir={root}/run", settings=SETTINGS)
    assert done.returncode == 1, done.stdout + done.stderr
    return root / "run", shard, good, done.stdout


@pytest.fixture(scope="module")
def without_probe_folder(tmp_path_factory):
    """The workdir of a finished run on texts, whose probe folder was deleted after that."""
    root = tmp_path_factory.mktemp("texts")
    write_corpus(root / "corpus", number=2)
    (root / "probe").mkdir()
    rows = [f"{'good' if i % 2 else 'bad'} film number {i}\t{i % 2}" for i in range(20)]
    for name in ("train", "dev"):
        table = "\n".join(["sentence\tlabel", *rows, ""])
        (root / "probe" / f"{name}.tsv").write_text(table)
    settings = [
        *(s for s in TINY if "drop_path" not in s and "batch_size" not in s),
        *("steps=2", "batch_size=4", "model.vocabulary_size=300", "model.max_sequence_length=32"),
        f"data.probe_folders=[{root}/probe]",
    ]
    sets = [word for setting in settings for word in ("--set", setting)]
    data = f"--data=text:{root}/corpus/*.txt"
    done = run_tool("pretrain.py", "--modality=text", data, f"--workdir={root}/run", *sets)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("train", "dev"):
        (root / "probe" / f"{name}.tsv").unlink()
    (root / "probe").rmdir()
    return root / "run"


def test_a_run_that_stops_says_how_to_see_it(stopped):
    workdir, _, _, said = stopped
    *_, last = said.splitlines()
    assert (
        last
        == f"to see what the run did so far: {sys.executable} tools/report.py --workdir={workdir}"
    )


def test_a_corrupt_shard_costs_the_pictures_that_need_it(stopped):
    workdir, _, _, _ = stopped
    said, page = report(workdir)
    assert titles(page) == ["Over the updates", "Masks"]
    (warning,) = [line for line in said.splitlines() if line.startswith("warning: ")]
    assert warning.startswith(f"warning: {workdir}: no pictures of features, for ")
    assert "is corrupt: corrupted record at " in warning
    assert "no pictures of features, for examples could not be looked at (data: " in page


@pytest.mark.slow  # a process that is not forked, and the rest of a run
def test_a_half_done_run_is_shown_as_it_is_and_anew_at_its_end(stopped):
    """In a plain process: what the tool needs, it imports."""
    workdir, shard, good, _ = stopped
    step = max(losses(workdir))
    assert 0 < step < 10 and not (workdir / "preset").exists()
    (workdir / "report.html").unlink(missing_ok=True)
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    bad = shard.read_bytes()
    try:
        shard.write_bytes(good)
        shows_the_middle_and_the_end(workdir, shard, step, before)
    finally:
        shard.write_bytes(bad)


def shows_the_middle_and_the_end(workdir, shard, step, before):
    tool = [sys.executable, str(ROOT / "tools" / "report.py"), f"--workdir={workdir}"]
    done = subprocess.run(tool, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (0, f"report: {workdir}/report.html\n"), done.stderr
    page = (workdir / "report.html").read_text(encoding="utf-8")
    assert f"after {step} of 10 updates" in page and f"{step} of 10" in page
    assert titles(page)[:3] == ["Over the updates", "Masks", "What the features see"]
    assert {p: p.read_bytes() for p in before} == before
    assert {p for p in workdir.rglob("*") if p.is_file()} == {*before, workdir / "report.html"}
    data = f"--data=tfrecord:{shard.parent}"
    done = run(data, f"--workdir={workdir}", settings=SETTINGS)
    page = (workdir / "report.html").read_text(encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "after the last of 10 updates" in page and "what the run did so far" not in done.stdout


def test_what_one_run_lacks_another_ones_page_keeps(stopped, without_probe_folder, tmp_path):
    workdir, *_ = stopped
    said, page = report(workdir, without_probe_folder, out=tmp_path / "both.html")
    warnings = [line for line in said.splitlines() if line.startswith("warning: ")]
    assert [line.split(": no ")[0] for line in warnings] == [
        f"warning: {workdir}",
        f"warning: {without_probe_folder}",
    ]
    assert "dev.tsv" in warnings[1]
    # Both have curves and masks, one has probes; neither has pictures of features.
    assert titles(page) == ["Over the updates", "What the features are worth", "Masks"]
    assert page.count('<div class="run">') == 2


def test_a_deleted_probe_folder_leaves_the_probes_of_the_run(without_probe_folder):
    said, page = report(without_probe_folder)
    assert titles(page) == ["Over the updates", "What the features are worth", "Masks"]
    reason = "no pictures of features, for examples could not be looked at (data: "
    assert f"warning: {without_probe_folder}: {reason}" in said and reason in page


@pytest.mark.parametrize("out", [[], ["--out=page.html"]])
def test_a_folder_that_is_no_runs_is_one_line(tmp_path, out):
    done = run_tool("report.py", f"--workdir={tmp_path}/nowhere", *out, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: --workdir={tmp_path}/nowhere is no folder of a run: it has no config.yaml. Give "
        "what tools/pretrain.py or tools/finetune.py was given as --workdir.\n"
    )
    assert not list(tmp_path.iterdir())
