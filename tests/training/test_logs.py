"""What a run writes down, and what it shows while it trains."""

import io
import json

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from d2v_tf.training.logs import (
    RunLog,
    Speedometer,
    append_json,
    drop_records_after,
    format_seconds,
    read_json_lines,
)
from d2v_tf.training.memory import peak_bytes
from d2v_tf.training.time_left import TimeLeft

LOGS = {"loss": 0.5, "target_var": 0.25, "pred_var": 0.125, "learning_rate": 1e-3}


@pytest.fixture
def clock(monkeypatch):
    """`time.perf_counter` with hands that the test moves."""

    class Clock:
        now = 100.0

        def pass_(self, seconds):
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    return clock


def time_step(speed, clock, seconds, between=0.0, examples=8):
    speed.begin()
    clock.pass_(seconds)
    speed.end(examples)
    clock.pass_(between)


# Speed.


def test_speed_leaves_out_the_first_step_and_what_happens_between_steps(clock):
    speed = Speedometer()
    time_step(speed, clock, 60.0)  # compiles
    assert speed.per_second is None
    time_step(speed, clock, 1.0, between=500.0)  # a probe
    assert speed.per_second == pytest.approx(8.0)
    time_step(speed, clock, 3.0)
    assert speed.per_second == pytest.approx(8 / 2.0)


def test_speed_counts_the_examples_of_batches_that_differ(clock):
    speed = Speedometer()
    for seconds, examples in [(60.0, 8), (1.0, 2), (3.0, 10)]:
        time_step(speed, clock, seconds, examples=examples)
    assert speed.per_second == pytest.approx(12 / 4.0)


def test_speed_follows_a_machine_that_slows_down(clock):
    speed = Speedometer()
    for _ in range(1001):
        time_step(speed, clock, 1.0, examples=1)
    for _ in range(300):
        time_step(speed, clock, 2.0, examples=1)
    # The mean of all steps would be 1.23 s.
    assert speed.per_second == pytest.approx(1 / 2.0)


def test_a_step_that_compiles_another_shape_is_left_out(clock):
    speed = Speedometer()
    for seconds in (60.0, 1.0, 1.2, 50.0, 0.8, 1.0):
        time_step(speed, clock, seconds)
    assert speed.per_second == pytest.approx(8 / 1.0)


# Time left.


def test_the_time_left_counts_what_comes_between_updates(clock):
    """Of 200 updates of 0.5 s that are saved every 40 and probed after 100."""
    left = TimeLeft(200, {"checkpoint": 40, "probe": 100, "pictures": 0})
    with left.pause("probe"):  # of the untrained backbone
        clock.pass_(31.0)
    said, began = {}, clock.now
    for step in range(1, 201):
        clock.pass_(60.0 if step == 1 else 0.5)  # the first compiles
        if step == 70:
            clock.pass_(45.0)  # another shape compiles
        left.tick()
        said[step] = left.seconds(step), clock.now
        for kind, every, seconds in (("checkpoint", 40, 4.0), ("probe", 100, 30.0)):
            if step % every == 0:
                with left.pause(kind):
                    clock.pass_(seconds)
    end = clock.now
    assert said[1][0] is None and end - began > 200
    for step in (90, 120, 150, 199):
        seconds, now = said[step]
        assert seconds == pytest.approx(end - now, rel=0.05), step
    assert said[200][0] == pytest.approx(4.0 + 30.0)


def test_the_time_left_follows_a_machine_that_slows_down(clock):
    left = TimeLeft(1000)
    for seconds in [1.0] * 300 + [3.0] * 100:
        clock.pass_(seconds)
        left.tick()
    assert left.seconds(400) == pytest.approx(600 * 3.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (9.4, "0:09"),
        (59.6, "1:00"),
        (75, "1:15"),
        (3599.7, "1:00:00"),
        (3700, "1:01:40"),
        (100 * 3600 + 61, "100:01:01"),
    ],
)
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text


# Files.


def test_json_lines_come_back(tmp_path):
    path = tmp_path / "a.jsonl"
    assert read_json_lines(path) == []
    append_json(path, {"step": np.int64(1), "loss": np.float32(0.5), "rate": None})
    append_json(path, {"step": 2, "of": "untrained"})
    assert path.read_text() == (
        '{"step": 1, "loss": 0.5, "rate": null}\n{"step": 2, "of": "untrained"}\n'
    )
    assert read_json_lines(path) == [
        {"step": 1, "loss": 0.5, "rate": None},
        {"step": 2, "of": "untrained"},
    ]


def test_what_was_logged_past_the_checkpoint_goes(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2, 3, 4):
        append_json(path, {"step": step, "loss": step / 10})
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"step": 5, "lo')  # killed while writing
    assert [r["step"] for r in read_json_lines(path)] == [1, 2, 3, 4]
    drop_records_after(path, 3)
    append_json(path, {"step": 4, "loss": 9.0})
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(r["step"], r["loss"]) for r in records] == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 9.0)]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_half_line_does_not_swallow_the_next_record(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"ste')
    drop_records_after(path, 1)
    append_json(path, {"step": 2})
    assert read_json_lines(path) == [{"step": 1}, {"step": 2}]


def test_nothing_to_drop_makes_no_file(tmp_path):
    drop_records_after(tmp_path / "none.jsonl", 3)
    assert not list(tmp_path.iterdir())


def test_what_is_no_number_is_null_in_json(tmp_path):
    append_json(tmp_path / "a.jsonl", {"step": 1, "loss": float("nan"), "pred_var": float("inf")})
    text = (tmp_path / "a.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "step": 1,
        "loss": None,
        "pred_var": None,
    }


# A run.


def run(workdir, console, clock, start=4, steps=9, log_every=2, counts=dict, **options):
    """Steps 5 to 9 of a run: the first takes a minute, the others 2 s for 8 examples."""
    log = RunLog(
        str(workdir), start, steps, log_every=log_every, counts=counts,
        console=console, **options,
    )  # fmt: skip
    log.on_train_begin()
    for batch in range(steps - start):
        log.on_train_batch_begin(batch)
        clock.pass_(2.0 if batch else 60.0)
        logs = {
            **LOGS,
            "examples": 8,
            "loss": tf.constant(1.0 / (start + batch + 1)),
        }  # as `fit` hands them over
        log.on_train_batch_end(batch, logs)
    log.close()


def plain_console():
    return Console(file=io.StringIO(), width=200)


def test_metrics_are_written_when_due_with_the_runs_step(tmp_path, clock):
    skipped = iter(range(100))
    run(tmp_path, plain_console(), clock, counts=lambda: {"skipped": next(skipped)})
    records = read_json_lines(tmp_path / "metrics.jsonl")
    # The first of this fit, every second of the run, and the last.
    assert [r["step"] for r in records] == [5, 6, 8, 9]
    assert records[0] == {
        "step": 5,
        **LOGS,
        "loss": pytest.approx(1 / 5),
        "examples_per_second": None,  # the step that compiles has no speed
        "skipped": 0,
    }
    assert records[-1] == {
        "step": 9,
        **LOGS,
        "loss": pytest.approx(1 / 9),
        "examples_per_second": pytest.approx(4.0),
        "skipped": 3,
    }


def test_tensorboard_holds_the_same_numbers(tmp_path, clock):
    run(tmp_path, plain_console(), clock, counts=lambda: {"skipped": 7})
    scalars = {}
    files = [str(p) for p in (tmp_path / "tensorboard").iterdir()]
    assert len(files) == 1
    for record in tf.data.TFRecordDataset(files):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            scalars[value.tag, event.step] = float(tf.make_ndarray(value.tensor))
    for record in read_json_lines(tmp_path / "metrics.jsonl"):
        step = record.pop("step")
        for name, value in record.items():
            if value is None:
                assert (name, step) not in scalars
            else:
                assert scalars.pop((name, step)) == pytest.approx(value, rel=1e-6)
    assert not scalars


def test_off_a_terminal_a_due_step_is_a_plain_line(tmp_path, clock):
    console = plain_console()
    run(tmp_path, console, clock)
    assert console.file.getvalue().splitlines() == [
        "compiling the first update",
        "step 5/9  loss 0.2000  target_var 0.2500  pred_var 0.1250",
        "step 6/9  loss 0.1667  target_var 0.2500  pred_var 0.1250  4.0 examples/s  0:06 left",
        "step 8/9  loss 0.1250  target_var 0.2500  pred_var 0.1250  4.0 examples/s  0:02 left",
        "step 9/9  loss 0.1111  target_var 0.2500  pred_var 0.1250  4.0 examples/s  0:00 left",
    ]


def status_of(log):
    return log.bar.tasks[0].fields["status"]


def test_on_a_terminal_there_is_one_bar(tmp_path, clock):
    console = Console(file=io.StringIO(), force_terminal=True, width=150)
    run(tmp_path, console, clock, log_every=100)
    shown = console.file.getvalue()
    assert "compiling" in shown
    assert "9/9" in shown and "loss 0.1111" in shown and "4.0 examples/s" in shown
    assert "step 9/9  loss" not in shown  # the plain line
    log = RunLog(str(tmp_path / "pauses"), 0, 5, 1, dict, console)
    log.on_train_begin()
    with pytest.raises(KeyError), log.time_left.pause("probe"):
        assert status_of(log) == "probing ...  compiling"
        raise KeyError
    assert status_of(log) == "compiling"
    assert "probing ...  compiling" in console.file.getvalue()
    log.close()
    with log.time_left.pause("probe"):  # nobody is told any more
        assert log.bar is None
    # The bar shows every step; the file has only those that are due.
    assert [r["step"] for r in read_json_lines(tmp_path / "metrics.jsonl")] == [5, 9]
    narrow = Console(file=io.StringIO(), force_terminal=True, width=80)
    run(tmp_path / "narrow", narrow, clock, log_every=100)
    # What does not fit is cut at the right; how long it takes is on the left.
    last = narrow.file.getvalue().rsplit("9/9", 1)[1].split("\n")[0]
    assert "0:00 left" in last and "loss 0.1111" in last and "4.0 examples/s" in last


def test_quiet_shows_nothing_and_writes_all(tmp_path, clock):
    for terminal in (False, True):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=150)
        run(tmp_path / str(terminal), console, clock, quiet=True)
        assert console.file.getvalue() == ""
        assert len(read_json_lines(tmp_path / str(terminal) / "metrics.jsonl")) == 4


def test_closing_twice_and_without_a_step_is_fine(tmp_path):
    console = Console(file=io.StringIO(), force_terminal=True, width=150)
    log = RunLog(str(tmp_path), 0, 5, 1, dict, console)
    log.on_train_begin()
    log.close()
    log.close()
    assert not (tmp_path / "metrics.jsonl").exists()


def test_the_log_has_the_peak_of_memory_and_outlasts_a_full_disk(tmp_path):
    console = Console(file=io.StringIO(), width=200)
    log = RunLog(str(tmp_path), 0, 10, 1, peak_bytes, console)
    path = log.path
    log.on_train_begin()
    for batch in range(4):
        log.path = path if batch in (0, 3) else "/proc/nowhere"
        log.on_train_batch_begin(batch)
        log.on_train_batch_end(batch, {**LOGS, "examples": 8})
    log.close()
    records = read_json_lines(path)
    assert [record["step"] for record in records] == [1, 4]
    assert 1e8 < records[0]["peak_host_bytes"] <= records[1]["peak_host_bytes"] < 1e11
    assert console.file.getvalue().count("some of the log cannot be written") == 1
