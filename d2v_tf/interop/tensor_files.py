"""Files of tensors, read one tensor at a time."""

import json
import os

from safetensors import SafetensorError, safe_open

from d2v_tf.interop.key_map import WeightsError
from d2v_tf.interop.pickled import StateDict, StoredTensor, TorchFile

# What a folder may hold, best first: one file, or the index of several.
NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


class SafetensorsFile:
    """A `.safetensors` file; a tensor's bytes are read when it is asked for.

    The file is opened anew for each: one that stays open keeps all that was read in memory (Base:
    2.3 times the weights instead of 1.3).

    Raises:
        WeightsError: for a file that is none or is cut off.
    """

    def __init__(self, path):
        self.name = path
        try:
            with safe_open(path, framework="numpy") as file:
                self._shapes = {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path}: no readable safetensors file ({error}).") from None

    def keys(self):
        """list of str."""
        return list(self._shapes)

    def shape(self, key):
        """tuple of int."""
        return self._shapes[key]

    def read(self, key):
        """float32 array."""
        with safe_open(self.name, framework="numpy") as file:
            array = file.get_tensor(key)
        if array.dtype.kind in "biuc":  # bfloat16 has a kind of its own
            raise WeightsError(f"{self.name}: {key} holds {array.dtype}, no real numbers.")
        return array.astype("float32", copy=False)


def open_bin(path):
    """Opens a `.bin` file of PyTorch, without it; nothing in the file is executed.

    Raises:
        WeightsError: for a file that is none, is cut off, or holds anything but tensors.
    """
    file = TorchFile(path)
    tensors = file.content
    if not isinstance(tensors, dict) or not all(
        isinstance(tensor, StoredTensor) for tensor in tensors.values()
    ):
        raise WeightsError(f"{path}: it holds something else than a dict of tensors.")
    return StateDict(file, tensors)


class ShardedFiles:
    """Several files and the index that says which tensor is in which."""

    def __init__(self, path, open_file):
        self.name = path
        folder = os.path.dirname(path)
        try:
            with open(path, encoding="utf-8") as file:
                self._shard_of = dict(json.load(file)["weight_map"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(
                f"{path}: no readable index of shards ({type(error).__name__}: {error})."
            ) from None
        names = sorted(set(self._shard_of.values()))
        absent = [name for name in names if not os.path.isfile(os.path.join(folder, name))]
        if absent:
            raise WeightsError(f"{path}: it names files that are not there: {', '.join(absent)}.")
        self._shards = {name: open_file(os.path.join(folder, name)) for name in names}
        for name, shard in self._shards.items():
            promised = {key for key, where in self._shard_of.items() if where == name}
            lacking = sorted(promised - set(shard.keys()))
            if lacking:
                raise WeightsError(f"{shard.name}: it lacks, against {path}: {', '.join(lacking)}.")
            for key in shard.keys():  # what the index forgot is not the model's, but it is there
                self._shard_of.setdefault(key, name)

    def keys(self):
        """list of str."""
        return list(self._shard_of)

    def shape(self, key):
        """tuple of int."""
        return self._shards[self._shard_of[key]].shape(key)

    def read(self, key):
        """float32 array."""
        return self._shards[self._shard_of[key]].read(key)


def open_tensors(folder):
    """Opens the weights of a Hugging Face folder.

    Returns:
        An object with `name`, `keys()`, `shape(key)` and `read(key)`.

    Raises:
        WeightsError: where there are none, or they cannot be read.
    """
    name = next((n for n in NAMES if os.path.isfile(os.path.join(folder, n))), None)
    if name is None:
        raise WeightsError(f"{folder}: no weights. It must hold one of: {', '.join(NAMES)}.")
    open_file = SafetensorsFile if ".safetensors" in name else open_bin
    path = os.path.join(folder, name)
    return ShardedFiles(path, open_file) if name.endswith(".json") else open_file(path)
