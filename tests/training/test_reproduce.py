"""The comparison of fine-tuned with trained from scratch: its plan, its runs, its table."""

import json
import multiprocessing
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console

import d2v_tf
from d2v_tf.config import load_finetune_recipe
from d2v_tf.errors import UserError
from d2v_tf.training.reproduce import (
    choose,
    read_plan,
    read_results,
    reproduce,
    write_table,
)
from tests.data.images import write_tree
from tests.training.test_finetune import PRETRAINING, RECIPE

ROOT = Path(__file__).resolve().parents[2]
PLAN = ROOT / "configs" / "reproduce.yaml"


def test_every_recipe_of_the_plan_can_be_read():
    plan = read_plan(PLAN, "some where")
    assert plan["experiments"]["rte"]["set"]["data.source"] == "folder:some where/glue"
    for experiment in plan["experiments"].values():
        for changes in ({}, experiment.get("scratch", {})):
            values = {**experiment["set"], **changes}
            sets = [f"{key}={json.dumps(value)}" for key, value in values.items()]
            load_finetune_recipe(str(ROOT / experiment["config"]), sets, experiment["modality"])
        assert Path(ROOT / plan["backbones"][experiment["modality"]]["config"]).exists()


def test_an_experiment_that_the_plan_has_not():
    plan = read_plan(PLAN, "data")
    with pytest.raises(UserError, match="--only=cifar: the plan has cifar10_1, cifar10_10, "):
        choose(plan, ["cifar10_1", "cifar"])
    assert list(choose(plan, ["rte", "cifar10_1"])) == ["cifar10_1", "rte"]
    assert choose(plan, None) == plan["experiments"]
    with pytest.raises(UserError, match="--plan=nowhere.yaml cannot be read"):
        read_plan("nowhere.yaml", "data")


def test_means_and_deviations_in_percent():
    plan = {
        "experiments": {
            "a": {"title": "Cats", "metric": "accuracy"},
            "b": {"title": "Words", "metric": "wer", "beam": {}},
        }
    }
    results = {
        "a": {
            "scratch": [{"accuracy": v} for v in (0.1, 0.2, 0.6)],
            "pretrained": [{"accuracy": 0.5}],
        },
        "b": {"scratch": [{"wer": 1.0, "cer": 0.5, "wer_lm": 0.75}]},
    }
    lines = write_table(plan, results).splitlines()
    spread = np.std([10, 20, 60], ddof=1)
    assert lines[2] == f"| Cats | accuracy | 30.0 ± {spread:.1f} | 50.0 (one seed) |"
    assert lines[3:] == [
        "| Words | word error rate | 100.0 (one seed) |  |",
        "|  | the same, with language model | 75.0 (one seed) |  |",
        "|  | letter error rate | 50.0 (one seed) |  |",
    ]


def test_both_arms_run_with_every_seed_and_once(tmp_path, capfd):
    write_tree(tmp_path / "photos" / "train", 16)
    write_tree(tmp_path / "photos" / "test", 6)
    (tmp_path / "finetune.yaml").write_text(RECIPE.replace("SCRATCH", "vision_tiny"))
    (tmp_path / "pretrain.yaml").write_text(PRETRAINING)
    experiment = {
        "title": "Photos",
        "modality": "vision",
        "config": str(tmp_path / "finetune.yaml"),
        "metric": "accuracy",
        "set": {
            "steps": 2,
            "data.source": "folder:{data}/train",
            "data.eval_source": "folder:{data}/test",
        },
        "scratch": {"optimizer.layer_decay": 1.0},
    }
    backbone = {
        "config": str(tmp_path / "pretrain.yaml"),
        "set": {"steps": 2, "precision": "float32", "data.source": "folder:{data}/train"},
    }
    (tmp_path / "plan.yaml").write_text(
        yaml.safe_dump({"backbones": {"vision": backbone}, "experiments": {"photos": experiment}})
    )
    plan = read_plan(tmp_path / "plan.yaml", str(tmp_path / "photos"))

    def run(seeds=("0", "1")):
        table = reproduce(plan, choose(plan, None), str(tmp_path / "runs"), {}, seeds, Console())
        return table, capfd.readouterr().out

    table, output = run()
    results = read_results(plan, tmp_path / "runs")
    for arm in ("scratch", "pretrained"):
        scores = [record["accuracy"] for record in results["photos"][arm]]
        assert len(scores) == 2 and all(record["step"] == 2 for record in results["photos"][arm])
        assert f"{100 * np.mean(scores):.1f} ± {100 * np.std(scores, ddof=1):.1f}" in table
        config = yaml.safe_load(
            (tmp_path / "runs" / "photos" / arm / "seed_1" / "config.yaml").read_text()
        )
        assert config["optimizer"]["layer_decay"] == (1.0 if arm == "scratch" else 0.8)
        assert (config["init"] == "scratch") == (arm == "scratch")
    # Both arms have one shape, that of the run that was made first.
    scratch, tuned = (
        d2v_tf.load_task(tmp_path / "runs" / "photos" / arm / "seed_0" / "preset", verbose=False)
        for arm in ("scratch", "pretrained")
    )
    assert [w.shape for w in scratch.weights] == [w.shape for w in tuned.weights]
    # Both see the same images.
    settings = [task.preprocessor.image_converter.get_config() for task in (scratch, tuned)]
    assert settings[0]["scale"] == settings[1]["scale"] != 1 / 127.5
    assert settings[0]["offset"] == settings[1]["offset"]
    assert "compiling the first update" in output
    again, output = run()
    assert again == table and "compiling the first update" not in output
    with pytest.raises(UserError, match="scores.json was made with other seeds. Remove "):
        run(["0"])


def test_a_run_that_was_killed_is_told(tmp_path):
    plan = {"backbones": {"vision": {"config": str(tmp_path / "fifo"), "set": {}}}}
    experiments = {"photos": {"title": "Photos", "modality": "vision"}}
    os.mkfifo(tmp_path / "fifo")  # reading its recipe never ends

    def kill_the_run():
        with open(tmp_path / "fifo", "w"):  # opens when the run reads
            (child,) = multiprocessing.active_children()
            os.kill(child.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_the_run)
    killer.start()
    with pytest.raises(UserError, match="was killed, perhaps for want of memory. The same command"):
        reproduce(plan, experiments, str(tmp_path / "runs"), {}, ["0"], Console())
    killer.join()
