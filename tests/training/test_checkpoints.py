"""A run continues from its newest readable checkpoint as if it had never stopped."""

import os
import resource
import shutil
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from d2v_tf.config import load_recipe
from d2v_tf.training.checkpointer import Checkpointer
from d2v_tf.training.checkpoints import (
    CheckpointError,
    Checkpoints,
    all_finite,
    is_on_accelerator,
    named_variables,
)
from d2v_tf.training.model import build_model
from tests.pretraining.tiny import vision_backbone, vision_batch, vision_model

TINY = Path(__file__).resolve().parents[2] / "configs" / "pretrain" / "vision_tiny.yaml"


def new_model(seed, **backbone):
    """A compiled model as a new process makes it: Keras counts its names from the start."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    backbone = {"num_layers": 2, "dropout": 0.2, "drop_path_rate": 0.3, **backbone}
    model = vision_model(vision_backbone(**backbone), seed=seed)
    optimizer = keras.optimizers.AdamW(keras.optimizers.schedules.ExponentialDecay(0.01, 2, 0.5))
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, jit_compile=False)
    return model


def train(model, start, stop, callbacks=()):
    """Updates `start` to `stop`; each has a batch of its own."""
    batches = [vision_batch(seed) for seed in range(start, stop)]
    data = tf.data.Dataset.from_tensor_slices(
        {name: tf.stack([b[name] for b in batches]) for name in batches[0]}
    )
    model.fit(data, verbose=0, shuffle=False, callbacks=list(callbacks))


def state(model):
    return {name: variable.numpy() for name, variable in named_variables(model).items()}


def assert_same_state(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Checkpoints of steps 1 to 3 and each one's state; the numbers differ from step to step."""
    folder = tmp_path_factory.mktemp("three") / "checkpoints"
    model = new_model(seed=1)
    checkpoints = Checkpoints(str(folder), model)
    states = {}
    for step in (1, 2, 3):
        for variable in named_variables(model).values():
            variable.assign_add(tf.ones_like(variable))
        checkpoints.save(step)
        states[step] = state(model)
    return folder, states


@pytest.fixture
def saved(three, tmp_path):
    """A copy of them, to be broken."""
    folder, states = three
    return shutil.copytree(folder, tmp_path / "checkpoints"), states


def files_of(folder, step):
    """The data file and the index of a checkpoint."""
    return sorted(folder.glob(f"step-{step}.*"))


def test_the_state_is_all_that_an_update_changes():
    model = new_model(seed=1)
    before = state(model)
    train(model, 0, 1)
    after = state(model)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    for part in ("encoder/", "teacher/", "head/", "seed_generator", "_momentum", "_velocity"):
        assert any(part in name for name in changed), part
    assert any(name.endswith("/iteration") for name in changed)
    # Every weight has a name of its own: none is lost behind another's.
    assert len(before) == len(model.variables) + len(model.optimizer.variables)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Five updates: the folder with the checkpoint of the third, and the states of both."""
    folder = str(tmp_path_factory.mktemp("unbroken"))
    model = new_model(seed=1)
    train(model, 0, 3)
    Checkpoints(folder, model).save(3)
    at_three = state(model)
    train(model, 3, 5)
    return folder, at_three, state(model)


def test_a_restored_run_equals_an_unbroken_one_to_the_bit(unbroken):
    folder, at_three, at_five = unbroken
    resumed = new_model(seed=2)  # other weights, other random state
    assert Checkpoints(folder, resumed).restore() == (3, [])
    assert_same_state(state(resumed), at_three)
    assert int(resumed.optimizer.iterations) == 3
    train(resumed, 3, 5)
    assert_same_state(state(resumed), at_five)


def test_an_empty_folder_is_a_run_that_has_not_begun(tmp_path):
    model = new_model(seed=1)
    before = state(model)
    assert Checkpoints(str(tmp_path / "new"), model).restore() == (0, [])
    assert_same_state(state(model), before)


def test_a_moved_folder_is_the_same_run(saved, tmp_path):
    folder, states = saved
    folder.rename(tmp_path / "elsewhere")
    model = new_model(seed=2)
    assert Checkpoints(str(tmp_path / "elsewhere"), model).restore() == (3, [])
    assert_same_state(state(model), states[3])


def test_only_the_last_ones_are_kept_also_across_a_restart(tmp_path):
    model = new_model(seed=1)
    first = Checkpoints(str(tmp_path), model, keep=2)
    for step in (5, 10, 15):
        assert first.save(step) == str(tmp_path / f"step-{step}")
    assert {p.stem for p in tmp_path.glob("*.index")} == {"step-10", "step-15"}
    again = Checkpoints(str(tmp_path), model, keep=2)
    again.restore()
    again.save(20)
    assert {p.stem for p in tmp_path.glob("*.index")} == {"step-15", "step-20"}
    assert {p.name.split(".")[0] for p in tmp_path.glob("*.data*")} == {"step-15", "step-20"}


# Damage.


def remove_index(data, index):
    index.unlink()


def remove_data(data, index):
    data.unlink()


def empty_index(data, index):
    index.write_bytes(b"")


def truncate_index(data, index):
    os.truncate(index, index.stat().st_size // 2)


def garble_index(data, index):
    index.write_bytes(np.random.default_rng(0).bytes(index.stat().st_size))


def garble_data(data, index):
    data.write_bytes(np.random.default_rng(0).bytes(data.stat().st_size))


def flip_one_byte(data, index):
    content = bytearray(data.read_bytes())
    content[-5] ^= 0xFF
    data.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        remove_index,
        remove_data,
        empty_index,
        truncate_index,
        garble_index,
        garble_data,
        flip_one_byte,
    ],
)
def test_a_damaged_checkpoint_is_passed_over_with_a_line(saved, damage):
    folder, states = saved
    damage(*files_of(folder, 3))
    model = new_model(seed=2)
    step, passed_over = Checkpoints(str(folder), model).restore()
    assert step == 2
    assert_same_state(state(model), states[2])
    [line] = passed_over
    assert line.startswith(f"{folder}/step-3 cannot be read (")
    assert "\n" not in line


def test_a_run_that_passed_one_over_saves_that_step_anew(saved):
    folder, _ = saved
    garble_data(*files_of(folder, 3))
    model = new_model(seed=2)
    checkpoints = Checkpoints(str(folder), model)
    assert checkpoints.restore()[0] == 2
    train(model, 2, 3)
    checkpoints.save(3)
    expected = state(model)
    again = new_model(seed=3)
    assert Checkpoints(str(folder), again).restore() == (3, [])
    assert_same_state(state(again), expected)


def test_no_readable_checkpoint_is_an_error_that_names_each(saved):
    folder, _ = saved
    for step in (1, 2, 3):
        remove_index(*files_of(folder, step))
    with pytest.raises(CheckpointError) as caught:
        Checkpoints(str(folder), new_model(seed=2)).restore()
    told = str(caught.value)
    assert told.startswith(f"None of the 3 checkpoints in {folder} can be read: ")
    for step in (1, 2, 3):
        assert f"{folder}/step-{step} cannot be read (" in told
    assert told.endswith("Remove the folder to start anew.")


# Another model.


def test_a_deeper_model_is_told_what_is_missing(saved):
    folder, _ = saved
    with pytest.raises(CheckpointError) as caught:
        Checkpoints(str(folder), new_model(seed=2, num_layers=3)).restore()
    told = str(caught.value)
    assert told.startswith(f"{folder}/step-3 is not of this model: ")
    assert "block_2" in told  # the block that only the new model has
    assert told.endswith("Use the recipe that the run was started with, or another --workdir.")


def test_another_width_differs_in_shape_alone(saved):
    folder, _ = saved
    model = new_model(seed=2, intermediate_dim=20)
    before = state(model)
    with pytest.raises(CheckpointError) as caught:
        Checkpoints(str(folder), model).restore()
    # In 2 blocks: a kernel and a bias in, a kernel out; of student, teacher and two Adam slots.
    assert "0 variables are missing in it, 0 are in it only, 24 differ in shape" in str(
        caught.value
    )
    assert "encoder_block_0_intermediate_dense_bias" in str(caught.value).replace("/", "_")
    assert_same_state(state(model), before)  # nothing was read into it


# Numbers that are none.


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["encoder/block_1/output_dense/kernel", "velocity"])
def test_a_state_with_a_nan_is_not_saved(saved, part, bad):
    folder, states = saved
    model = new_model(seed=2)
    checkpoints = Checkpoints(str(folder), model)
    variable = next(v for name, v in named_variables(model).items() if part in name)
    value = variable.numpy()
    value.flat[-1] = bad
    variable.assign(value)
    assert checkpoints.save(4) is None
    assert not files_of(folder, 4)
    other = new_model(seed=3)
    assert Checkpoints(str(folder), other).restore() == (3, [])
    assert_same_state(state(other), states[3])


def test_all_finite_looks_at_every_float_and_at_no_integer():
    fine = [tf.Variable([1.0, 2.0]), tf.Variable([2**62], dtype=tf.int64)]
    assert all_finite(fine)
    assert not all_finite([*fine, tf.Variable([[0.0, np.nan]])])


# The callback.


class Recorder:
    """Stands for `Checkpoints`; refuses the steps in `refused`."""

    is_writing = False

    def __init__(self, refused=()):
        self.steps, self.refused = [], refused

    def begin(self, step):
        self.steps.append(step)
        return step not in self.refused

    def end(self):
        return f"step-{self.steps[-1]}"

    def save(self, step):
        return self.end() if self.begin(step) else None


@pytest.mark.parametrize(
    ("start", "steps", "every", "expected"),
    [
        (0, 7, 3, [3, 6, 7]),
        (0, 6, 3, [3, 6]),
        (4, 7, 3, [6, 7]),  # counted from the start of the run, not of this fit
        (0, 2, 100, [2]),
    ],
)
def test_the_callback_saves_every_few_updates_and_at_the_end(start, steps, every, expected):
    recorder = Recorder()
    checkpointer = Checkpointer(recorder, start, steps, every)
    for batch in range(steps - start):
        checkpointer.on_train_batch_end(batch)
    assert recorder.steps == expected


def test_saving_now_tells_the_step_on_disk_and_saves_it_once():
    recorder = Recorder(refused=[5])
    checkpointer = Checkpointer(recorder, start=2, steps=100, every=4)
    assert checkpointer.save_now() == 2  # nothing new since the start
    checkpointer.on_train_batch_end(0)
    assert checkpointer.save_now() == 3 and checkpointer.save_now() == 3
    checkpointer.on_train_batch_end(1)  # 4: due
    checkpointer.on_train_batch_end(2)
    assert checkpointer.save_now() == 4  # 5 held a NaN
    assert recorder.steps == [3, 4, 5]


def test_the_callback_in_a_real_fit(tmp_path):
    model = new_model(seed=1)
    checkpoints = Checkpoints(str(tmp_path), model, keep=10)
    train(model, 0, 5, [Checkpointer(checkpoints, start=0, steps=5, every=2)])
    assert {p.stem for p in Path(tmp_path).glob("*.index")} == {"step-2", "step-4", "step-5"}
    again = new_model(seed=2)
    assert Checkpoints(str(tmp_path), again).restore() == (5, [])
    assert_same_state(state(again), state(model))


class InterruptBefore(keras.callbacks.Callback):
    """Ctrl-C between two updates."""

    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def on_train_batch_begin(self, batch, logs=None):
        if batch == self.batch:
            raise KeyboardInterrupt


def test_ctrl_c_between_updates_saves_the_state_of_the_unbroken_run(unbroken, tmp_path):
    model = new_model(seed=1)
    checkpointer = Checkpointer(Checkpoints(str(tmp_path), model), start=0, steps=5, every=100)
    with pytest.raises(KeyboardInterrupt):
        train(model, 0, 5, [InterruptBefore(3), checkpointer])
    assert checkpointer.save_now() == 3
    other = new_model(seed=2)
    assert Checkpoints(str(tmp_path), other).restore() == (3, [])
    assert_same_state(state(other), unbroken[1])


def test_a_second_run_in_one_process_resumes_the_first(tmp_path):
    """Keras numbers what it names by what the process made before."""
    recipe = load_recipe(TINY, ["model.num_layers=2", "data2vec.num_target_layers=2"])
    model = build_model(recipe)
    Checkpoints(str(tmp_path), model).save(3)
    keras.layers.Dropout(0.5)
    other = build_model(recipe.model_copy(update={"seed": 1}))
    assert set(named_variables(other)) == set(named_variables(model))
    assert Checkpoints(str(tmp_path), other).restore() == (3, [])


# What is kept for good, and disks that are full.


def add_one(model):
    for variable in named_variables(model).values():
        variable.assign_add(tf.ones_like(variable))


def test_every_kth_is_kept_for_good_and_used_where_the_last_ones_are_broken(tmp_path):
    model = new_model(seed=1)
    checkpoints = Checkpoints(str(tmp_path), model, keep=1, keep_every=4)
    states = {}
    for step in (2, 4, 6, 8, 10):
        add_one(model)
        checkpoints.save(step)
        states[step] = state(model)
    assert {p.stem for p in tmp_path.glob("*.index")} == {"step-10"}
    assert {p.stem for p in tmp_path.glob("kept/*.index")} == {"step-4", "step-8"}
    garble_data(*files_of(tmp_path, 10))
    again = new_model(seed=2)
    step, passed_over = Checkpoints(str(tmp_path), again, keep=1, keep_every=4).restore()
    assert (step, len(passed_over)) == (8, 1)
    assert_same_state(state(again), states[8])
    for file in files_of(tmp_path / "kept", 8):
        file.unlink()
    assert Checkpoints(str(tmp_path), again, keep=1, keep_every=4).restore()[0] == 4
    assert_same_state(state(again), states[4])


@pytest.mark.parametrize("fault", ["clock", "cut", "empty", "gone"])
def test_what_the_list_of_checkpoints_says_does_not_matter(fault, tmp_path, monkeypatch):
    model = new_model(seed=1)
    checkpoints = Checkpoints(str(tmp_path), model, keep=2)
    for step in (1, 2, 3):
        add_one(model)
        checkpoints.save(step)
    listed = tmp_path / "checkpoint"
    if fault == "clock":
        monkeypatch.setattr("time.time", lambda: 1e9)  # long before
    elif fault == "cut":
        listed.write_bytes(listed.read_bytes()[:30])
    elif fault == "empty":
        listed.write_bytes(b"")
    else:
        listed.unlink()
    again = new_model(seed=2)
    after = Checkpoints(str(tmp_path), again, keep=2)
    assert after.restore() == (3, [])
    assert_same_state(state(again), state(model))
    for step in (4, 5):
        after.save(step)
    assert {p.stem for p in tmp_path.glob("*.index")} == {"step-4", "step-5"}


def test_restoring_changes_nothing_in_the_folder(saved):
    """A report reads the folder of a run that goes on, whose list is that run's to mend."""
    folder, states = saved
    (folder / "checkpoint").write_bytes(b"model_checkpoint_")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    reader = new_model(seed=2)
    assert Checkpoints(str(folder), reader).restore() == (3, [])
    assert_same_state(state(reader), states[3])
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_no_room_to_keep_one_for_good_leaves_it_where_it_is(tmp_path, monkeypatch):
    checkpoints = Checkpoints(str(tmp_path), new_model(seed=1), keep=1, keep_every=2)

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.link", refuse)
    monkeypatch.setattr("shutil.copyfile", refuse)
    with pytest.raises(CheckpointError, match="step-2 cannot be kept for good in .*No space left"):
        checkpoints.save(2)
    assert Checkpoints(str(tmp_path), new_model(seed=2)).restore() == (2, [])


@pytest.fixture
def no_room():
    """Lets no file grow past a few kB: writing fails as on a full disk, halfway through."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_the_checkpoints_before(saved, no_room):
    folder, states = saved
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    model = new_model(seed=2)
    checkpoints = Checkpoints(str(folder), model)
    checkpoints.restore()
    no_room()
    with pytest.raises(CheckpointError) as caught:
        checkpoints.save(4)
    told = str(caught.value)
    assert told.startswith(f"The checkpoint of step 4 cannot be written to {folder} (")
    assert told.endswith("Those before it are whole. Free some space, or lower keep_checkpoints.")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    other = new_model(seed=3)
    assert Checkpoints(str(folder), other).restore() == (3, [])
    assert_same_state(state(other), states[3])


def test_what_killed_runs_have_left_is_swept_away(saved):
    """Before something is saved: a report that reads the folder changes nothing."""
    folder, _ = saved
    (folder / "step-4_temp").mkdir()
    (folder / "step-4_temp" / "part-00000-of-00001.data-00000-of-00001").write_bytes(b"half")
    (folder / "step-9.data-00000-of-00001").write_bytes(b"its index was not written")
    (folder / "kept").mkdir()
    (folder / "kept" / "step-2.index.tmp").write_bytes(b"")
    (folder / "step-notes.txt").write_text("not ours")
    checkpoints = Checkpoints(str(folder), new_model(seed=2))
    assert checkpoints.restore() == (3, [])
    assert (folder / "step-4_temp").exists()
    checkpoints.save(4)
    files = {p.name for p in folder.iterdir()}
    steps = [f"step-{n}.{part}" for n in (2, 3, 4) for part in ("index", "data-00000-of-00001")]
    assert files == {"checkpoint", "kept", "step-notes.txt", *steps}
    assert not list((folder / "kept").iterdir())
    for step in (2, 3, 4):
        garble_data(*files_of(folder, step))
    with pytest.raises(CheckpointError, match="None of the 3 checkpoints"):  # 1 is past
        Checkpoints(str(folder), new_model(seed=2)).restore()


def test_older_ones_go_when_the_newest_is_on_disk(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def note(number):
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{number}")))
        assert {p.stem for p in tmp_path.glob("*.index")} >= {"step-1", "step-2"}
        fsync(number)

    checkpoints = Checkpoints(str(tmp_path), new_model(seed=1), keep=2)
    for step in (1, 2):
        checkpoints.save(step)
    monkeypatch.setattr(os, "fsync", note)
    checkpoints.save(3)
    assert set(synced) == {"step-3.index", "step-3.data-00000-of-00001", tmp_path.name}
    assert {p.stem for p in tmp_path.glob("*.index")} == {"step-2", "step-3"}


class FullDisk:
    """Stands for `Checkpoints` on a disk that is full until a step."""

    def __init__(self, until, in_background=False):
        self.until, self.in_background = until, in_background
        self.steps, self.is_writing = [], False

    def begin(self, step):
        self.begun, self.is_writing = step, self.in_background
        return True

    def end(self):
        self.is_writing = False
        if self.begun < self.until:
            raise CheckpointError(f"no room for step {self.begun}")
        self.steps.append(self.begun)
        return f"step-{self.begun}"

    def save(self, step):
        return self.end() if self.begin(step) else None


@pytest.mark.parametrize("in_background", [False, True])
def test_training_outlasts_a_full_disk_but_does_not_end_on_one(in_background):
    warnings, disk = [], FullDisk(until=6, in_background=in_background)
    checkpointer = Checkpointer(disk, start=0, steps=8, every=2, warn=warnings.append)
    for batch in range(8):
        checkpointer.on_train_batch_end(batch)
    assert warnings == ["no room for step 2", "no room for step 4"]
    assert disk.steps == [6, 8]
    last = Checkpointer(FullDisk(until=9), start=0, steps=2, every=2, warn=warnings.append)
    last.on_train_batch_end(0)
    with pytest.raises(CheckpointError, match="no room for step 2"):
        last.on_train_batch_end(1)


# Written by a thread while training goes on: what accelerators do.


class Slowly:
    """Holds back the thread that writes until it is told to go on."""

    def __init__(self, monkeypatch):
        self.go_on, self.began, write = threading.Event(), threading.Event(), Checkpoints._write

        def slowly(checkpoints, step):
            self.began.set()
            assert self.go_on.wait(60)
            return write(checkpoints, step)

        monkeypatch.setattr(Checkpoints, "_write", slowly)


def test_what_is_written_meanwhile_is_the_state_of_its_step(unbroken, tmp_path, monkeypatch):
    model, slowly = new_model(seed=1), Slowly(monkeypatch)
    checkpoints = Checkpoints(str(tmp_path), model, in_background=True)
    checkpointer = Checkpointer(checkpoints, start=0, steps=9, every=3)
    train(model, 0, 3, [checkpointer])
    train(model, 3, 5, [checkpointer])  # the third update's state is not on disk yet
    assert slowly.began.wait(60) and checkpointer.saved == 0
    assert not list(tmp_path.glob("*.index"))
    assert_same_state(state(model), unbroken[2])
    slowly.go_on.set()
    other = new_model(seed=2)
    checkpoints.close()
    assert Checkpoints(str(tmp_path), other).restore() == (3, [])
    assert_same_state(state(other), unbroken[1])


def test_what_a_thread_writes_is_waited_for_before_the_next_and_at_the_end(tmp_path):
    model, warnings = new_model(seed=1), []
    checkpoints = Checkpoints(str(tmp_path), model, in_background=True)
    checkpointer = Checkpointer(checkpoints, start=0, steps=5, every=1, warn=warnings.append)
    train(model, 0, 4, [checkpointer])
    assert checkpointer.saved >= 3 and checkpointer.save_now() == 4
    train(model, 4, 5, [checkpointer])
    assert checkpointer.saved == 5 and not warnings
    assert {p.stem for p in tmp_path.glob("*.index")} == {"step-3", "step-4", "step-5"}
    other = new_model(seed=2)
    assert Checkpoints(str(tmp_path), other).restore() == (5, [])
    assert_same_state(state(other), state(model))


def test_a_thread_that_finds_the_disk_full_says_so_after_an_update(saved, no_room):
    folder, _ = saved
    model, warnings = new_model(seed=1), []
    checkpoints = Checkpoints(str(folder), model, in_background=True)
    checkpointer = Checkpointer(checkpoints, start=3, steps=9, every=2, warn=warnings.append)
    no_room()
    train(model, 3, 4, [checkpointer])
    checkpoints.close()
    train(model, 4, 5, [checkpointer])
    assert len(warnings) == 1 and "step 4 cannot be written" in warnings[0]
    assert checkpointer.saved == 3


@pytest.mark.parametrize("warn", [True, False])
def test_what_a_thread_could_not_write_is_said_where_training_ends_early(saved, no_room, warn):
    folder, _ = saved
    model, warnings = new_model(seed=1), []
    checkpoints = Checkpoints(str(folder), model, in_background=True)
    warn = warnings.append if warn else None
    checkpointer = Checkpointer(checkpoints, start=3, steps=9, every=1, warn=warn)
    checkpointer.checkpoints._thread.submit(time.sleep, 0.5)  # it is still to write
    no_room()
    train(model, 3, 4, [checkpointer])
    if warn:
        checkpointer.close()
        assert len(warnings) == 1 and "step 4 cannot be written" in warnings[0]
    else:
        with pytest.raises(CheckpointError, match="step 4 cannot be written"):
            checkpointer.close()


def test_a_nan_is_not_handed_to_the_thread(tmp_path):
    model = new_model(seed=1)
    checkpoints = Checkpoints(str(tmp_path), model, in_background=True)
    model.trainable_variables[0].assign(model.trainable_variables[0] * np.nan)
    assert not checkpoints.begin(1) and not checkpoints.is_writing


def test_cpus_write_at_once_and_accelerators_meanwhile(tmp_path):
    with tf.device("CPU:0"):
        assert not Checkpoints(str(tmp_path), new_model(seed=1)).in_background

    class On:
        def __init__(self, device):
            self.device = device

    task = "/job:worker/replica:0/task:1/device:"
    assert [is_on_accelerator(On(f"{task}{d}:0")) for d in ("CPU", "GPU", "TPU")] == [
        False, True, True,
    ]  # fmt: skip
    assert not is_on_accelerator(On(""))
