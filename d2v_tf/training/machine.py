"""Where and with what a run was started: `starts.jsonl`, a line a start."""

import importlib.metadata
import os
import platform
import time

import tensorflow as tf

from d2v_tf.training.logs import append_json, read_json_lines

PACKAGES = ("d2v_tf", "tensorflow", "keras", "numpy")


def note_start(workdir, step, devices, warn=print, **facts):
    """Writes down the start of a run. Where it cannot, that is no reason not to run.

    Args:
        workdir: str.
        step: int. Updates that were made before.
        devices: str. What the run is computed on.
        warn: callable(str), told of a file that cannot be written.
        **facts: more to write down, as JSON has it.
    """
    record = {
        "time": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "step": step,
        "machine": describe_machine(),
        "devices": devices,
        "versions": describe_versions(),
        **facts,
    }
    try:
        append_json(os.path.join(workdir, "starts.jsonl"), record)
    except OSError as error:
        warn(f"the start is not written down ({error})")


def note_start_and_data(workdir, step, devices, data, warn, **facts):
    """Writes down the start of a run; says where its data is not what the run began with.

    Args:
        workdir, step, devices, warn, **facts: as `note_start` has them.
        data: `RunData`.
    """
    changed = other_data(workdir, data) if step else None
    if changed:
        warn(changed)
    note_start(workdir, step, devices, warn, **facts, **data_facts(data))


def data_facts(data):
    """What is written down of the data that a run reads.

    Args:
        data: `RunData`.
    """
    return {"examples": data.num_examples, "fingerprint": data.fingerprint}


def other_data(workdir, data):
    """A line that says how the data differs from what the run began with; `None` if it does not.

    Args:
        workdir: str.
        data: `RunData`.
    """
    starts = read_json_lines(os.path.join(workdir, "starts.jsonl"))
    # Before its first checkpoint a run may have been started anew, with other data.
    began = [start for start in starts if start["step"] == 0 and "fingerprint" in start]
    if not began or began[-1]["fingerprint"] == data.fingerprint:
        return None
    then, now = began[-1]["examples"], data.num_examples
    what = f"has {now:,} examples and had {then:,}"
    if then == now:
        what = f"has other examples than it had, {now:,} as before,"
    return (
        f"{data.name} {what} when the run began. The order of this epoch changes with them: some "
        "examples come twice in it, others not at all. Put back what there was, or go on."
    )


def describe_machine():
    """The processor, its cores, memory and GPUs, as a str."""
    gpus = [
        tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
        for gpu in tf.config.get_visible_devices("GPU")
    ]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [_processor(), f"{cores} cores", _memory(), *gpus, platform.system()]
    return ", ".join(filter(None, parts))


def describe_versions():
    """Python's version and those of the packages that decide what is computed, as a str."""
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:  # run from its sources, uninstalled
            continue
    return ", ".join(found)


def _memory():
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB"
    except (AttributeError, OSError, ValueError):  # a system that does not say
        return ""


def _processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
