"""A run's folder belongs to one process and one recipe."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from d2v_tf.config import ConfigError, load_finetune_recipe, load_recipe
from d2v_tf.training import folder_lock
from d2v_tf.training.workdir import WorkdirError, open_workdir

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "configs" / "pretrain" / "vision_tiny.yaml"
OPEN_AND_EXIT = """
import sys
from d2v_tf.config import load_recipe
from d2v_tf.training.workdir import open_workdir
with open_workdir(sys.argv[1], load_recipe(sys.argv[2])):
    print("taken")
"""


def recipe(*overrides):
    return load_recipe(TINY, ["steps=100", *overrides])


def start_run(path, run):
    """A run that got as far as its first checkpoint."""
    with open_workdir(str(path), run):
        (path / "checkpoints").mkdir(exist_ok=True)
        (path / "checkpoints" / "step-1.index").write_text("")


def get(recipe, key):
    for name in key.split("."):
        recipe = getattr(recipe, name)
    return recipe


def refusal(path, run):
    with pytest.raises(WorkdirError) as caught, open_workdir(str(path), run):
        raise AssertionError("the folder was taken")
    return str(caught.value)


def test_a_folder_of_the_other_kind_is_refused_as_such(tmp_path):
    tuning = load_finetune_recipe(ROOT / "configs" / "finetune" / "vision_tiny.yaml")
    for name, run, other, kind in (
        ("a", recipe(), tuning, "a pre-training run"),
        ("b", tuning, recipe(), "a fine-tuning run"),
    ):
        start_run(tmp_path / name, run)
        told = refusal(tmp_path / name, other)
        assert told == f"--workdir={tmp_path}/{name} is the folder of {kind}. Choose another one."


def test_batches_of_ctc_keep_the_sizes_that_they_began_with(tmp_path):
    ctc = ROOT / "configs" / "finetune" / "speech_ctc_tiny.yaml"
    settings = ["batch_size=32", "freeze.backbone_steps=0"]

    def resolved(name, replicas, *more):
        run = load_finetune_recipe(ctc, [*settings, *more])
        with open_workdir(str(tmp_path / name), run, replicas) as recipe:
            (tmp_path / name / "checkpoints").mkdir(exist_ok=True)
            (tmp_path / name / "checkpoints" / "step-1.index").write_text("")
        return recipe.data.size_multiple

    assert resolved("new", 4) == resolved("new", 2) == 4
    with pytest.raises(WorkdirError, match="multiples of 4 .* Leave data.size_multiple away to"):
        resolved("new", 2, "data.size_multiple=2")
    # A run from before there was the key.
    resolved("old", 1)
    config = tmp_path / "old" / "config.yaml"
    lines = config.read_text().splitlines()
    config.write_text("\n".join(line for line in lines if "size_multiple" not in line) + "\n")
    assert resolved("old", 2) == 1
    # Of classes a batch has as many as batch_size says.
    tiny = ROOT / "configs" / "finetune" / "speech_tiny.yaml"
    with pytest.raises(ConfigError, match="data.size_multiple: 2 is of use to the task ctc alone"):
        load_finetune_recipe(tiny, ["data.size_multiple=2"])
    with open_workdir(str(tmp_path / "classes"), load_finetune_recipe(tiny), 2) as recipe:
        assert recipe.data.size_multiple == "auto"


def open_in_another_process(path):
    return subprocess.run(
        [sys.executable, "-c", OPEN_AND_EXIT, str(path), str(TINY)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


def test_a_second_process_is_refused_until_the_first_lets_go(tmp_path):
    with open_workdir(str(tmp_path), load_recipe(TINY)):
        second = open_in_another_process(tmp_path)
    assert second.returncode == 1 and "taken" not in second.stdout
    assert (
        second.stderr.strip()
        .splitlines()[-1]
        .endswith(
            f"WorkdirError: --workdir={tmp_path} is in use by another run. Wait for it to end or "
            "choose another folder."
        )
    )
    assert open_in_another_process(tmp_path).stdout == "taken\n"


def test_the_same_process_is_refused_too(tmp_path):
    with open_workdir(str(tmp_path), recipe()):
        assert "is in use by another run" in refusal(tmp_path, recipe())


def test_an_error_inside_lets_go_of_the_folder(tmp_path):
    with pytest.raises(KeyError), open_workdir(str(tmp_path), recipe()):
        raise KeyError
    with open_workdir(str(tmp_path), recipe()):
        pass


def test_a_refusal_lets_go_of_the_folder(tmp_path):
    start_run(tmp_path, recipe())
    refusal(tmp_path, recipe("seed=1"))
    with open_workdir(str(tmp_path), recipe()):
        pass


def test_folders_are_made_and_the_recipe_is_written(tmp_path):
    run = recipe("optimizer.learning_rate=2e-3", "schedule.warmup_steps=10%", "mask.ratio=0.5")
    with open_workdir(str(tmp_path / "runs" / "a"), run):
        files = {p.name for p in (tmp_path / "runs" / "a").iterdir()}
        written = load_recipe(tmp_path / "runs" / "a" / "config.yaml")
    assert written.precision in ("float32", "bfloat16") and written.xla in (True, "parts")
    assert written.model_copy(update={"precision": "auto", "xla": "auto"}) == run
    assert files == {".lock", "config.yaml"}


@pytest.mark.parametrize("inside", ["", "run"])
def test_a_file_in_the_way(tmp_path, inside):
    file = tmp_path / "file"
    file.write_text("")
    reason = "Not a directory" if inside else "File exists"
    path = file / inside if inside else file
    assert refusal(path, recipe()) == (
        f"--workdir={path} cannot be written ({reason}). Choose another folder."
    )


def test_a_folder_that_nobody_may_write():
    told = refusal("/proc/nowhere", recipe())
    assert told.startswith("--workdir=/proc/nowhere cannot be written (")


def test_a_changed_recipe_is_told_key_by_key(tmp_path):
    start_run(tmp_path, recipe())
    before = (tmp_path / "config.yaml").read_text()
    assert refusal(tmp_path, recipe("optimizer.learning_rate=0.5", "model.dropout=0.25")) == (
        f"{tmp_path}/config.yaml is of a run with another recipe: model.dropout was 0.0 and is "
        "0.25; optimizer.learning_rate was 0.001 and is 0.5. To continue that run, start it as "
        "before; for a new run, choose another --workdir."
    )
    assert (tmp_path / "config.yaml").read_text() == before


def test_a_list_and_an_empty_value_count_as_changes(tmp_path):
    start_run(tmp_path, recipe("data2vec.ema=[0.9, 0.99, 5]"))
    told = refusal(tmp_path, recipe("data2vec.ema=[0.9, 0.99, 6]", "data2vec.target_norm=null"))
    assert "data2vec.ema was [0.9, 0.99, 5] and is [0.9, 0.99, 6]" in told
    assert "data2vec.target_norm was 'layer' and is None" in told


@pytest.mark.parametrize(
    "override",
    [
        "accumulate=2",
        "log_every=3",
        "checkpoint_every=7",
        "keep_checkpoints=9",
        "probe_every=11",
        "guard.min_target_var=0.05",
        "data.tfds_dir=elsewhere",
        "data.eval_source=builtin:train",
        "data.max_bad=0.5",
    ],
)
def test_what_no_update_depends_on_may_change(tmp_path, override):
    start_run(tmp_path, recipe())
    changed = recipe(override)
    assert changed != recipe()
    with open_workdir(str(tmp_path), changed) as resolved:
        pass
    assert load_recipe(tmp_path / "config.yaml") == resolved
    assert get(resolved, override.split("=")[0]) == get(changed, override.split("=")[0])


@pytest.mark.parametrize(
    "override",
    ["steps=200", "seed=1", "batch_size=64", "precision=float32", "xla=false"],
)
def test_what_an_update_depends_on_may_not(tmp_path, override):
    start_run(tmp_path, recipe("precision=bfloat16", "xla=true"))
    told = refusal(tmp_path, recipe(override))
    assert override.split("=")[0] in told


def test_a_folder_without_a_checkpoint_takes_another_recipe(tmp_path):
    """As after a first command with a mistake in it."""
    with open_workdir(str(tmp_path), recipe("data.source=folder:/nowhere")):
        pass
    with open_workdir(str(tmp_path), recipe("seed=1")):
        pass
    assert load_recipe(tmp_path / "config.yaml").seed == 1


def test_a_run_goes_on_with_the_numbers_that_it_was_started_with(tmp_path, monkeypatch):
    """Also on a machine where `auto` means others."""
    start_run(tmp_path, recipe("precision=bfloat16", "xla=true"))
    monkeypatch.setattr("d2v_tf.training.workdir.resolve_precision", lambda p, _: p)
    monkeypatch.setattr("d2v_tf.training.workdir.resolve_xla", lambda x: x)
    with open_workdir(str(tmp_path), recipe()) as resolved:
        assert (resolved.precision, resolved.xla) == ("bfloat16", True)


def test_a_run_older_than_a_key_goes_on_with_its_default(tmp_path):
    text = ROOT / "configs" / "pretrain" / "text_base.yaml"
    run = load_recipe(text, ["steps=100", "schedule={kind: cosine, warmup_steps: 1}"])
    start_run(tmp_path, run)
    config = tmp_path / "config.yaml"
    lines = config.read_text().splitlines(keepends=True)
    older = [x for x in lines if "stddev" not in x and "position_init" not in x]
    assert len(older) == len(lines) - 3
    config.write_text("".join(older))
    with open_workdir(str(tmp_path), run):
        assert "token_stddev: 0.02" in config.read_text()
    config.write_text("".join(older))
    other = run.model_copy(update={"model": run.model.model_copy(update={"token_stddev": 0.1})})
    with pytest.raises(WorkdirError, match="model.token_stddev was 0.02 and is 0.1"):
        with open_workdir(str(tmp_path), other):
            pass


def test_what_a_run_started_from_stays_on_record(tmp_path):
    """Weights are read once: a run is continued with and without the flag, and with another."""
    start_run(tmp_path, recipe("init=first.pt"))
    for again in (recipe(), recipe("init=first.pt"), recipe("init=second.pt")):
        with open_workdir(str(tmp_path), again) as continued:
            assert continued.init == "first.pt"
        assert "init: first.pt" in (tmp_path / "config.yaml").read_text()


def test_a_run_from_random_weights_stays_one(tmp_path):
    start_run(tmp_path, recipe())
    config = tmp_path / "config.yaml"
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in lines if not line.startswith("init:")))  # an old one
    with open_workdir(str(tmp_path), recipe("init=second.pt")) as continued:
        assert continued.init is None


def test_without_a_checkpoint_the_flag_counts(tmp_path):
    with open_workdir(str(tmp_path), recipe("init=first.pt")):
        pass
    with open_workdir(str(tmp_path), recipe("init=second.pt")) as started:
        assert started.init == "second.pt"


def speech(*overrides):
    return load_recipe(ROOT / "configs" / "pretrain" / "speech_tiny.yaml", list(overrides))


def speech_run(path, *overrides, replicas=1):
    with open_workdir(str(path), speech(*overrides), replicas=replicas) as started:
        (path / "checkpoints").mkdir(exist_ok=True)
        (path / "checkpoints" / "step-1.index").write_text("")
    return started.accumulate, started.data.size_multiple


def test_batches_keep_their_sizes_on_another_number_of_replicas(tmp_path):
    """Else the batches of an epoch would be others, and some of its examples come twice."""
    assert speech_run(tmp_path, replicas=4) == (1, 4)
    assert speech_run(tmp_path, replicas=2) == (1, 4)
    # Half of the replicas, each with as many utterances at a time as before.
    assert speech_run(tmp_path, "accumulate=2", replicas=2) == (2, 2)
    assert speech_run(tmp_path, "accumulate=4", replicas=1) == (4, 1)
    assert speech_run(tmp_path, replicas=4) == (1, 4)
    told = refusal(tmp_path, speech("accumulate=8"))
    assert "batches have multiples of 4 utterances, and with accumulate=8" in told
    assert told.endswith("they would be of 8. Choose an accumulate that divides 4.")
    assert "multiples of 4" in refusal(tmp_path, speech("data.size_multiple=8"))
    # A run older than the key had batches of any size.
    config = tmp_path / "config.yaml"
    config.write_text(config.read_text().replace("  size_multiple: 4\n", ""))
    assert speech_run(tmp_path, replicas=2) == (1, 1)


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "replicas", "multiple"),
    [
        (189, 1, 1, 8),  # the paper's: 184 utterances
        (189, 1, 3, 24),
        (16, 1, 1, 2),  # 4 could leave out 3 of 16
        (16, 1, 8, 8),  # as the replicas need it
        (190, 2, 1, 8),
        (40, 4, 1, 1),
        (6, 1, 1, 1),
    ],
)
def test_a_run_of_one_replica_may_go_on_with_more(
    tmp_path, batch_size, accumulate, replicas, multiple
):
    settings = f"batch_size={batch_size}", f"accumulate={accumulate}"
    assert speech_run(tmp_path, *settings, replicas=replicas)[1] == multiple


def test_workers_leave_the_folder_to_their_chief(tmp_path):
    with open_workdir(str(tmp_path / "run"), recipe(), is_chief=False) as resolved:
        assert resolved.precision != "auto"
        assert not (tmp_path / "run").exists()
        with open_workdir(str(tmp_path / "run"), recipe()):
            with open_workdir(str(tmp_path / "run"), recipe(), is_chief=False) as other:
                assert other == resolved


@pytest.mark.parametrize("path", ["gs://bucket/run", "s3://bucket/run", "hdfs://name:9000/run"])
@pytest.mark.parametrize("is_chief", [True, False])
def test_an_address_is_no_folder(tmp_path, monkeypatch, path, is_chief):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WorkdirError, match=f"--workdir={path} is an address.*mounted file system"):
        with open_workdir(path, recipe(), is_chief=is_chief):
            pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"model: {a: 1", b"", b"- 1\n", b"\xff\xfe\x00"])
def test_a_broken_config_is_told(tmp_path, content):
    start_run(tmp_path, recipe())
    (tmp_path / "config.yaml").write_bytes(content)
    told = refusal(tmp_path, recipe())
    assert told.startswith(f"{tmp_path}/config.yaml cannot be read (") and "\n" not in told
    assert told.endswith("Put a copy of it back, or choose another --workdir.")


def test_a_checkpoint_that_is_kept_for_good_is_one(tmp_path):
    start_run(tmp_path, recipe())
    (tmp_path / "checkpoints" / "kept").mkdir()
    (tmp_path / "checkpoints" / "step-1.index").rename(tmp_path / "checkpoints/kept/step-1.index")
    assert "seed was 0 and is 1" in refusal(tmp_path, recipe("seed=1"))


# A file system that cannot lock files.


@pytest.fixture
def no_locks(monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folder_lock.fcntl, "flock", flock)
    monkeypatch.setattr(folder_lock, "BEAT", 0.02)
    monkeypatch.setattr(folder_lock, "SILENCE", 1.0)


def test_without_locks_a_file_holds_the_folder(tmp_path, no_locks):
    held = tmp_path / ".lock.held"
    with open_workdir(str(tmp_path), recipe()):
        assert held.read_text().startswith(f"process {os.getpid()} of ")
        told = refusal(tmp_path, recipe())
        assert f"is in use by process {os.getpid()} of " in told and held.exists()
    assert not held.exists()
    with open_workdir(str(tmp_path), recipe()):
        pass


def test_the_file_of_a_run_that_was_killed_holds_nothing(tmp_path, no_locks):
    held = tmp_path / ".lock.held"
    held.write_text("process 1 of elsewhere")
    with open_workdir(str(tmp_path), recipe()):
        assert held.read_text().startswith(f"process {os.getpid()} of ")
    assert [p.name for p in tmp_path.glob(".lock*")] == [".lock"]


def test_of_two_that_clear_away_one_gets_the_folder(tmp_path, no_locks):
    """Whose file the other had taken for that of the run that was killed."""
    held = tmp_path / ".lock.held"
    held.write_text("process 1 of elsewhere")
    rename = os.rename

    def meanwhile(source, target):
        held.write_text("process 2 of elsewhere")  # the faster one's
        rename(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder_lock.os, "rename", meanwhile)
        assert "is in use by process 2 of elsewhere" in refusal(tmp_path, recipe())
    assert held.read_text() == "process 2 of elsewhere"
    assert sorted(p.name for p in tmp_path.glob(".lock*")) == [".lock", ".lock.held"]


def test_another_error_of_locking_is_told(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(folder_lock.fcntl, "flock", flock)
    assert "cannot be written (Input/output error)" in refusal(tmp_path, recipe())
