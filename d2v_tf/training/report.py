"""Opens the folders of runs for a report: what ran, and as much of it as is still there."""

import contextlib
import glob
import os
import shlex
import sys

from rich.markup import escape

from d2v_tf.config import dump_recipe, load_finetune_recipe, load_recipe, task_in
from d2v_tf.data.reading import first_line
from d2v_tf.errors import UserError
from d2v_tf.interop.loading import load_with_report
from d2v_tf.reporting.page import step_of
from d2v_tf.reporting.record import RunRecord
from d2v_tf.reporting.report import write_report
from d2v_tf.reporting.tuning import TuningRecord, write_tuning_report
from d2v_tf.training.checkpoints import Checkpoints
from d2v_tf.training.logs import read_json_lines
from d2v_tf.training.modalities import modality_of, task_data
from d2v_tf.training.model import build_model

REPORT = "report.html"


class ReportError(UserError):
    """A report that cannot be made, with what to do about it."""


def report(workdirs, out=None, warn=print):
    """Writes the report of one run or of several side by side.

    Args:
        workdirs: list of str, folders of runs, all of pre-training or all of fine-tuning. One of
            several seeds stands for its runs.
        out: optional str, the file. Defaults to `report.html` in the only folder.
        warn: callable(str), told what is missing from the report.

    Returns:
        str, the file.

    Raises:
        ReportError: for a folder that is no run's, runs of both kinds, or a file that cannot be
            written.
        ConfigError: where a `config.yaml` cannot be read.
    """
    if out is None and len(workdirs) > 1:
        raise ReportError("--out: say which file the report of several runs is to be.")
    path = out or os.path.join(workdirs[0], REPORT)
    given = {folder: workdir for workdir in workdirs for folder in runs_in(workdir)}
    tuned = {folder: is_finetuning(folder) for folder in given}
    if len(set(tuned.values())) > 1:
        tuning, other = (
            next(given[folder] for folder in given if tuned[folder] is kind)
            for kind in (True, False)
        )
        raise ReportError(
            f"--workdir={tuning} is a fine-tuning run, and {other} is not. A page shows runs of "
            "one kind: make two, with an --out each."
        )
    if all(tuned.values()):
        _write_tuning(given, path)
        return path
    records = [open_record(folder) for folder in given]
    for record, name in zip(records, names_of(given), strict=True):
        record.name = name
    _write(write_report, records, path)
    for record in records:
        for line in record.missing:
            warn(f"{record.workdir}: {line}")
    return path


def report_at_end(recipe, workdir, data, backbone, console, warn):
    """Writes the report of a run that has just ended. What goes wrong is no reason to lose the run.

    Args:
        recipe, workdir, data, backbone: the run's.
        console: `rich` console, told where the report is.
        warn: callable(str), told of what went wrong, and how to try again.
    """
    path, again = os.path.join(workdir, REPORT), f"To try again: {command(workdir)}"
    try:
        record = _record(workdir, recipe)
        record.data, record.backbone, record.step = data, backbone, recipe.steps
        _write(write_report, [record], path)
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        warn(f"the report could not be written ({reason}). {again}")
        return
    if record.missing:
        warn(f"the report has {'; '.join(record.missing)}. {again}")
    console.print(f"report: {escape(path)}")


def tuning_report_at_end(workdir, console, warn, folders=None):
    """Writes the report of a fine-tuning run that has just ended, or of several seeds.

    Args:
        workdir: str.
        console: `rich` console, told where the report is.
        warn: callable(str), told of what went wrong, and how to try again.
        folders: optional list of str, the seeds' own in `workdir`.
    """
    path = os.path.join(workdir, REPORT)
    try:
        _write_tuning({folder: workdir for folder in folders or [workdir]}, path)
    except Exception as error:  # no reason to lose the run
        again = command(*folders or [workdir]) + (f" --out={shlex.quote(path)}" if folders else "")
        reason = f"{type(error).__name__}: {first_line(error)}"
        warn(f"the report could not be written ({reason}). To try again: {again}")
        return
    console.print(f"report: {escape(path)}")


@contextlib.contextmanager
def say_how_to_look(workdir, console):
    """Where a run ends early inside the block, whatever the reason, names the command to see it.

    Args:
        workdir: str.
        console: `rich` console.
    """
    try:
        yield
    except BaseException:
        if os.path.exists(os.path.join(workdir, "metrics.jsonl")):  # else there is nothing to see
            console.print(f"to see what the run did so far: {escape(command(workdir))}")
        raise


def is_of_the_end(workdir, recipe):
    """Whether a run's report is there and shows it after its last update."""
    return step_of(os.path.join(workdir, REPORT)) == recipe.steps


def command(*workdirs):
    """What writes the report of a run, or of several, for a shell."""
    flags = (f"--workdir={workdir}" for workdir in workdirs)
    return shlex.join([sys.executable, "tools/report.py", *flags])


def open_record(workdir):
    """What a folder holds of a pre-training run. Nothing in it is changed: the run may go on.

    Data that is gone and weights that are not there yet leave their pictures out.

    Args:
        workdir: str.

    Returns:
        `RunRecord`, whose `missing` says what is left out.

    Raises:
        ConfigError: where its `config.yaml` cannot be read.
    """
    recipe = load_recipe(os.path.join(workdir, "config.yaml"))
    record = _record(workdir, recipe)
    readable = False
    with record.trying("pictures of examples, for the data cannot be read"):
        record.data = modality_of(recipe).open_data(recipe, warn=lambda _: None)
        record.data.first_examples(1)  # files that are gone are noticed when they are read
        readable = True
    if not readable:
        record.data = None
    said = len(record.missing)
    with record.trying("pictures of features, for the weights cannot be read"):
        record.backbone, record.step = _weights(workdir, recipe)
    if record.backbone is None and len(record.missing) == said:
        record.missing.append(
            "no pictures of features, for there is no preset and no checkpoint yet"
        )
    return record


def open_tuning_record(workdir):
    """What a folder holds of a fine-tuning run, as a `TuningRecord`.

    Args:
        workdir: str.

    Raises:
        ConfigError: where its `config.yaml` cannot be read.
    """
    recipe = load_finetune_recipe(os.path.join(workdir, "config.yaml"))
    kind = task_data(recipe)
    read = _read(workdir, recipe, "metrics", "evaluations", "starts")
    decides = {"metric": kind.metric, "higher_is_better": kind.higher_is_better}
    return TuningRecord(group=read["name"], **decides, **read)


def runs_in(workdir):
    """The folder itself, or those of the seeds in it.

    Args:
        workdir: str.

    Raises:
        ReportError: where there is no run.
    """
    folders = [workdir]
    if not os.path.isfile(os.path.join(workdir, "config.yaml")):
        seeds = glob.glob(os.path.join(glob.escape(workdir), "seed_*", "config.yaml"))
        folders = sorted((os.path.dirname(path) for path in seeds), key=_seed_of)
    if not folders:
        raise ReportError(
            f"--workdir={workdir} is no folder of a run: it has no config.yaml. Give what "
            "tools/pretrain.py or tools/finetune.py was given as --workdir."
        )
    return folders


def _seed_of(folder):
    number = folder.rpartition("_")[2]
    return int(number) if number.isdigit() else -1


def names_of(workdirs):
    """A short name of each folder: the end of its path that tells it from the others."""
    paths = [os.path.abspath(w).split(os.sep) for w in workdirs]
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(path[-length:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return list(workdirs)  # the same folder twice


def _record(workdir, recipe):
    return RunRecord(**_read(workdir, recipe, "metrics", "probes", "starts"))


def _read(workdir, recipe, *logs):
    """What records of both kinds hold, by its name there."""
    return {
        "name": os.path.basename(os.path.abspath(workdir)),
        "workdir": workdir,
        "recipe": recipe,
        "recipe_text": dump_recipe(recipe),
        **{log: read_json_lines(os.path.join(workdir, f"{log}.jsonl")) for log in logs},
    }


def is_finetuning(workdir):
    """Whether a run's recipe is one for fine-tuning.

    Raises:
        ConfigError: where its `config.yaml` cannot be read.
    """
    return task_in(os.path.join(workdir, "config.yaml")) is not None


def _write_tuning(given, path):
    """Writes the page of fine-tuning runs.

    Args:
        given: dict, each run's folder -> the folder that was named, which may hold several.
        path: str.
    """
    records = [open_tuning_record(folder) for folder in given]
    named = list(dict.fromkeys(given.values()))
    groups = dict(zip(named, names_of(named), strict=True))
    for record in records:
        record.name = record.group = groups[given[record.workdir]]
        if record.workdir != given[record.workdir]:
            record.name += f"/{os.path.basename(record.workdir)}"
    _write(write_tuning_report, records, path)


def _weights(workdir, recipe):
    """A run's backbone and the updates behind it; (`None`, 0) where there is none yet."""
    preset = os.path.join(workdir, "preset")
    if os.path.isdir(preset):
        return load_with_report(preset)[0], recipe.steps
    if not os.path.isdir(os.path.join(workdir, "checkpoints")):
        return None, 0
    model = build_model(recipe)
    step, _ = Checkpoints(os.path.join(workdir, "checkpoints"), model).restore()
    return (model.student, step) if step else (None, 0)


def _write(write, records, path):
    try:
        write(records, path)
    except OSError as error:
        raise ReportError(
            f"{path} cannot be written ({error.strerror}). Name another file by --out."
        ) from error
