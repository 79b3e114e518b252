"""Where and with what a run was started: `starts.jsonl`, a line a start."""

import importlib.metadata
import os
import platform
import time

import tensorflow as tf

from d2v_tf.training.logs import append_json

PACKAGES = ("d2v_tf", "tensorflow", "keras", "numpy")


def note_start(workdir, step, devices):
    """Writes down the start of a run.

    Args:
        workdir: str.
        step: int. Updates that were made before.
        devices: str. What the run is computed on.
    """
    record = {
        "time": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "step": step,
        "machine": describe_machine(),
        "devices": devices,
        "versions": describe_versions(),
    }
    append_json(os.path.join(workdir, "starts.jsonl"), record)


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
