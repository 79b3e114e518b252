"""Fine-tuned against trained from scratch: every experiment of a plan, in one table."""

import contextlib
import json
import multiprocessing
import os
import signal
import statistics
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import yaml

from d2v_tf.config import load_recipe
from d2v_tf.console import open_console
from d2v_tf.errors import UserError
from d2v_tf.evaluation.examples import open_examples
from d2v_tf.evaluation.measure import measure
from d2v_tf.finetuning.decoding import BeamSearchDecoder
from d2v_tf.interop.loading import load_task
from d2v_tf.interop.preprocessing import load_preprocessing
from d2v_tf.training.finetune_seeds import finetune_seeds
from d2v_tf.training.pretrain import pretrain

ARMS = ("scratch", "pretrained")
# How a measure is called in the table.
MEASURES = {
    "accuracy": "accuracy",
    "wer": "word error rate",
    "wer_lm": "the same, with language model",
    "cer": "letter error rate",
    "mean_average_precision": "mAP",
    "matthews": "Matthews correlation",
    "score": "score",
}


def read_plan(path, data):
    """Reads a plan and puts the folder of the data where it says `{data}`.

    Args:
        path: str. A YAML file such as `configs/reproduce.yaml`.
        data: str.

    Raises:
        UserError: where it cannot be read.
    """
    try:
        with open(path, encoding="utf-8") as file:
            plan = yaml.safe_load(file)
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"--plan={path} cannot be read ({error}).") from None
    return json.loads(json.dumps(plan).replace("{data}", json.dumps(data)[1:-1]))


def choose(plan, names):
    """The experiments of a plan that are named, in its order; all where none is.

    Raises:
        UserError: for a name that the plan has not.
    """
    experiments = plan["experiments"]
    for name in names or ():
        if name not in experiments:
            raise UserError(f"--only={name}: the plan has {', '.join(experiments)}.")
    return {name: experiments[name] for name in experiments if not names or name in names}


def reproduce(plan, experiments, workdir, runs, seeds, console):
    """Runs experiments from scratch and from pre-trained backbones; what is done is not done again.

    Args:
        plan: dict, from `read_plan`.
        experiments: dict, from `choose`.
        workdir: str. Gets `backbones/MODALITY` where one is pre-trained, `NAME/ARM/seed_N` for each
            run, `results.json` and `table.md`.
        runs: dict, modality -> folder of a pre-training run to take instead of a new one.
        seeds: list of str.
        console: `rich` console.

    Returns:
        str. The table, Markdown.
    """
    for modality in dict.fromkeys(e["modality"] for e in experiments.values()):
        if modality not in runs:
            runs[modality] = os.path.join(workdir, "backbones", modality)
            _in_own_process(_pretrain, plan["backbones"][modality], modality, runs[modality])
    for name, experiment in experiments.items():
        for arm in ARMS:
            console.rule(f"{experiment['title']}: {arm}")
            _in_own_process(run_arm, plan, name, arm, workdir, runs[experiment["modality"]], seeds)
    results = read_results(plan, workdir)
    with open(os.path.join(workdir, "results.json"), "w", encoding="utf-8") as file:
        json.dump(results, file, indent=2)
    table = write_table(plan, results)
    with open(os.path.join(workdir, "table.md"), "w", encoding="utf-8") as file:
        file.write(table + "\n")
    return table


def _in_own_process(function, *arguments):
    """Calls a function of this module: TensorFlow never lets compiled functions go, and a process
    that compiled those of fifty runs has no memory mappings left."""
    context = multiprocessing.get_context("spawn")  # a fork of a TensorFlow process may hang
    try:
        with ProcessPoolExecutor(1, context) as pool, _sigterm_to_children():
            return pool.submit(function, *arguments).result()
    except BrokenProcessPool:
        raise UserError(
            "The process of this run was killed, perhaps for want of memory. The same command "
            "goes on from its last checkpoint."
        ) from None


@contextlib.contextmanager
def _sigterm_to_children():
    """A run that is told to end saves and raises `KeyboardInterrupt`, which comes back from it."""

    def forward(number, _):
        for child in multiprocessing.active_children():
            os.kill(child.pid, number)

    previous = signal.signal(signal.SIGTERM, forward)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _pretrain(backbone, modality, workdir):
    if not os.path.isdir(os.path.join(workdir, "preset")):
        recipe = load_recipe(backbone["config"], _sets(backbone["set"]), modality)
        pretrain(recipe, workdir, open_console())


def run_arm(plan, name, arm, workdir, run, seeds):
    """Fine-tunes with every seed, and writes `scores.json`: the settings, and a record a seed.

    Raises:
        UserError: where there is one that was made otherwise.
    """
    experiment = plan["experiments"][name]
    folder = os.path.join(workdir, name, arm)
    path = os.path.join(folder, "scores.json")
    modality = experiment["modality"]
    values = {
        "evaluate_every": "100%",  # the last score counts, not the best of several
        "checkpoint_every": "50%",
        **experiment["set"],
        "init": os.path.join(run, "preset"),
    }
    if arm == "scratch":
        values |= {"init": "scratch", "scratch": os.path.join(run, "config.yaml")}
        values |= plan["backbones"][modality].get("scratch", {}) | experiment.get("scratch", {})
    made = {"seeds": list(seeds), "recipe": experiment["config"], "settings": values}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            before = json.load(file)
        changed = [key for key in made if before[key] != made[key]]
        if changed:
            raise UserError(
                f"{path} was made with other {' and '.join(changed)}. Remove {folder} to run it "
                "again, or choose another --workdir."
            )
        return
    records = finetune_seeds(
        experiment["config"], _sets(values), modality, folder, seeds, open_console()
    )
    if "beam" in experiment:
        for seed, record in zip(seeds, records, strict=True):
            preset = os.path.join(folder, f"seed_{seed}", "preset")
            record["wer_lm"] = _with_language_model(experiment, preset)
    with open(path, "w", encoding="utf-8") as file:
        json.dump({**made, "records": records}, file, indent=2)


def _with_language_model(experiment, preset):
    """The word error rate of a beam search."""
    task = load_task(preset, verbose=False)
    group = dict(experiment["beam"])
    with open(group.pop("words"), encoding="utf-8") as file:
        decode = BeamSearchDecoder(task.vocabulary, words=file.read().split(), **group)
    examples = open_examples(task.backbone, experiment["set"]["data.eval_source"])
    found = measure(task, load_preprocessing(preset), examples, num_worst=0, decode=decode)
    return found.scores["wer"]


def _sets(values):
    """A dict of keys and values as `--set` takes them."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def read_results(plan, workdir):
    """All that is done so far: name -> arm -> list of the records of its seeds."""
    results = {}
    for name in plan["experiments"]:
        for arm in ARMS:
            path = os.path.join(workdir, name, arm, "scores.json")
            if os.path.exists(path):
                with open(path, encoding="utf-8") as file:
                    results.setdefault(name, {})[arm] = json.load(file)["records"]
    return results


def write_table(plan, results):
    """A Markdown table: means and standard deviations over the seeds, in percent.

    Args:
        plan: dict, from `read_plan`.
        results: dict, from `read_results`.
    """
    lines = ["| | measure, % | from scratch | pre-trained |", "| --- | --- | --- | --- |"]
    for name, arms in results.items():
        experiment = plan["experiments"][name]
        measures = [experiment["metric"]]
        if measures == ["wer"]:
            measures += ["wer_lm", "cer"] if "beam" in experiment else ["cer"]
        for measure_name in measures:
            cells = [_cell(arms.get(arm), measure_name) for arm in ARMS]
            title = experiment["title"] if measure_name == measures[0] else ""
            lines.append(f"| {title} | {MEASURES[measure_name]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(records, name):
    if records is None:
        return ""
    values = [100 * record[name] for record in records]
    if len(values) == 1:
        return f"{values[0]:.1f} (one seed)"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"
