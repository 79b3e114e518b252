"""Finds the folder with a `config.json`, and reads such files."""

import glob
import json
import os

from d2v_tf.interop.key_map import WeightsError

READABLE = (
    "a preset folder of d2v_tf, a finished run's folder, a Hugging Face folder (config.json with "
    "model.safetensors or pytorch_model.bin), or a file of fairseq (.pt) or BEiT (.pth)"
)


def find_folder(path):
    """The folder with `config.json` that a path stands for.

    Raises:
        WeightsError: where there is none.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise WeightsError(
            f"{path}: does not exist. Give {READABLE}. Nothing is downloaded from here."
        )
    for folder in (path, os.path.join(path, "preset")):
        if os.path.isfile(os.path.join(folder, "config.json")):
            return folder
    if os.path.isfile(os.path.join(path, "config.yaml")):
        best = os.path.join(path, "best")
        meanwhile = f", and {best} is what was probed best so far" if os.path.exists(best) else ""
        raise WeightsError(
            f"{path}: this run is not finished, it has no preset/ yet. The command that started it "
            f"continues it{meanwhile}."
        )
    seeds = sorted(glob.glob(os.path.join(glob.escape(path), "seed_*")))
    if seeds:
        raise WeightsError(f"{path}: holds runs of several seeds. Give one, such as {seeds[0]}.")
    raise WeightsError(f"{path}: has no config.json. Give {READABLE}.")


def read_json(path):
    """The dict in a file.

    Raises:
        WeightsError: where it cannot be read or is none.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read ({type(error).__name__}: {error}).") from None
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: it holds no JSON object.")
    return content
