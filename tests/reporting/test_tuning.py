"""The page of fine-tuning runs: its facts, its scores, what was heard, and what a folder misses."""

import io
import json
import re
import shlex

import pytest
from rich.console import Console

from d2v_tf.config import ConfigError, dump_recipe, load_finetune_recipe
from d2v_tf.reporting.overview import facts_of_starts
from d2v_tf.training.report import ReportError, report, runs_in, tuning_report_at_end
from tests.reporting.browser import console_of

CONFIG = "configs/finetune/speech_ctc_tiny.yaml"
START = {
    "time": "2026-11-27 07:00 UTC",
    "step": 0,
    "machine": "a laptop",
    "steps": 30,
    "examples": 12,
    "tested_on": "manifest:dev.tsv, 4 examples",
}
EVALUATIONS = [
    {"step": 10, "seconds": 1.5, "wer": 1.0, "cer": 0.9, "samples": [["one two", ""]]},
    {"step": 20, "seconds": 1.5, "wer": 0.25, "cer": 0.1, "samples": [["a <b> c", "a d c"]]},
    {"step": 30, "seconds": 1.5, "wer": None, "cer": 0.2, "samples": [["one two", "one two"]]},
]


def write_run(folder, settings=(), starts=(START,), evaluations=EVALUATIONS):
    """A folder as a fine-tuning run leaves it, as far as a report reads it."""
    folder.mkdir(parents=True)
    recipe = load_finetune_recipe(CONFIG, ["data.source='manifest:a.tsv'", *settings], "speech")
    (folder / "config.yaml").write_text(dump_recipe(recipe))
    metrics = [{"step": s, "loss": 30.0 - s, "learning_rate": 0.001} for s in (10, 20, 30)]
    for name, lines in (("metrics", metrics), ("evaluations", evaluations), ("starts", starts)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    return folder


def cells(page):
    """The text of the rows of all tables."""
    rows = re.findall("<tr>(.*?)</tr>", page)
    return [re.findall("<t[dh][^>]*>(.*?)</t[dh]>", row) for row in rows]


def test_what_ran_what_was_best_and_what_was_heard(tmp_path):
    page = report([str(write_run(tmp_path / "run", ["label_fraction=0.5"]))])
    assert page == f"{tmp_path}/run/report.html"
    text = (tmp_path / "run" / "report.html").read_text()
    rows = cells(text)
    for row in (
        ["task", "ctc, speech"],
        ["started from", "scratch"],
        ["data", "manifest:a.tsv, 0.5 of it"],
        ["tested on", "manifest:dev.tsv, 4 examples"],
        ["updates", "30 of 30"],
        ["best", "wer 0.25 after 20 updates"],
        ["examples", "12"],
        ["machine", "a laptop"],
        ["run", "20", "0.25", "0.1"],
        ["run", "20", "0.25", "0.1", "best"],
        ["run", "30", "-", "0.2", ""],
    ):
        assert row in rows, row
    # Of the best evaluation: what is not as it was said is marked, and markup is text.
    assert "a &lt;b&gt; c</span><br>a <span" in text
    assert '<span class="hidden">d</span> c' in text and "one two" not in text
    assert re.findall("<h2>(.*?)</h2>", text) == [
        "Scores",
        "What was said and heard",
        "Over the updates",
    ]
    assert text.count("<svg") == 4  # two scores, the loss and the learning rate


def test_words_that_were_not_heard(tmp_path):
    report([str(write_run(tmp_path / "run", evaluations=EVALUATIONS[:1]))])
    assert '<br><span class="hidden">…</span></p>' in (tmp_path / "run/report.html").read_text()


def test_runs_side_by_side_and_the_seeds_of_a_folder(tmp_path):
    for seed, best in ((0, EVALUATIONS), (2, EVALUATIONS), (10, EVALUATIONS[:1])):
        write_run(tmp_path / "tuned" / f"seed_{seed}", [f"seed={seed}"], evaluations=best)
    other = write_run(tmp_path / "other", ["init=runs/voices"])
    seeds = [f"{tmp_path}/tuned/seed_{seed}" for seed in (0, 2, 10)]
    assert runs_in(f"{tmp_path}/tuned") == seeds
    assert report([f"{tmp_path}/tuned"]) == f"{tmp_path}/tuned/report.html"
    with pytest.raises(ReportError, match="--out"):
        report([f"{tmp_path}/tuned", str(other)])
    report([f"{tmp_path}/tuned", str(other)], out=f"{tmp_path}/all.html")
    text = (tmp_path / "all.html").read_text()
    names = ["tuned/seed_0", "tuned/seed_2", "tuned/seed_10", "other"]
    assert ["", *names] in cells(text) and "<h1>tuned and other</h1>" in text
    assert ["tuned, 3 seeds", "", "0.5 ± 0.43", "0.3667 ± 0.46"] in cells(text)
    assert ["seed", "0", "2", "10", "0"] in cells(text)
    assert ["init", *["scratch"] * 3, "runs/voices"] in cells(text)
    assert console_of(tmp_path / "all.html") == []


def test_a_run_of_before_its_start_was_written_down_and_one_that_measured_nothing(tmp_path):
    for name, folder in (
        ("old", write_run(tmp_path / "old", starts=())),
        ("new", write_run(tmp_path / "new", evaluations=())),
    ):
        report([str(folder)])
        text = (folder / "report.html").read_text()
        assert ("Scores" in text) == ("said and heard" in text) == (name == "old")
        assert (">best<" in text) == (name == "old")
        assert ["updates", "30 of 30" if name == "new" else "30"] in cells(text)
        assert ("tested on" in text) == (name == "new")


def test_when_it_was_started_and_continued(tmp_path):
    def facts(*steps):
        return facts_of_starts([{"time": f"hour {i}", "step": s} for i, s in enumerate(steps)])

    assert facts() == {} and facts(0) == facts(0, 0) == {"first started": "hour 0"}
    assert facts(0, 0, 5, 9) == {"first started": "hour 0", "continued": "2 times, last hour 3"}
    assert facts(5) == {"continued": "1 times, last hour 0"}  # begun before there was such a file


def test_words_that_are_too_many_are_marked(tmp_path):
    run = write_run(
        tmp_path / "run", evaluations=[{**EVALUATIONS[0], "samples": [["a c", "a b c"]]}]
    )
    report([str(run)])
    assert '<br>a <span class="hidden">b</span> c</p>' in (run / "report.html").read_text()


def test_a_report_that_fails_loses_nothing(tmp_path):
    lines, console = [], Console(file=io.StringIO(), width=300)
    folders = [str(write_run(tmp_path / f"seed_{seed}", [f"seed={seed}"])) for seed in (0, 1)]
    (tmp_path / "report.html").mkdir()
    tuning_report_at_end(str(tmp_path), console, lines.append, folders)
    (line,) = lines
    assert "could not be written (ReportError: " in line and not console.file.getvalue()
    again = shlex.split(line.partition("To try again: ")[2])
    assert again[1:] == [
        "tools/report.py",
        *(f"--workdir={folder}" for folder in folders),
        f"--out={tmp_path}/report.html",
    ]


def test_a_page_is_of_one_kind_of_runs(tmp_path):
    tuned = write_run(tmp_path / "tuned")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("modality: vision\n")
    message = f"--workdir={tuned} is a fine-tuning run, and {tmp_path}/run is not. A page shows "
    message += "runs of one kind: make two, with an --out each."
    with pytest.raises(ReportError, match=re.escape(message)):
        report([f"{tmp_path}/run", str(tuned)], out=str(tmp_path / "page.html"))
    (tuned / "config.yaml").write_text("seed: [\n")
    with pytest.raises(ConfigError, match="tuned/config.yaml, line 2: not a YAML file"):
        report([f"{tmp_path}/run", str(tuned)], out=str(tmp_path / "page.html"))
    (tuned / "config.yaml").write_text("task: ctc\nmodality: speech\nsteps: never\n")
    with pytest.raises(ConfigError, match="steps: "):
        report([str(tuned)])
