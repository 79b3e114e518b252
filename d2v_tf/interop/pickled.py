"""PyTorch's files, read without PyTorch: where each tensor lies, and nothing that does anything.

A pickle is a program: it names functions and has them called. Here no name is looked up. Those of
tensors are answered by records of where the numbers lie, all others by classes without behavior,
so that a file may hold configurations of libraries that nobody has, and whatever it means to call
is not called.
"""

import io
import math
import os
import pickle
import struct
import zipfile
from typing import NamedTuple

import ml_dtypes
import numpy as np

from d2v_tf.interop.key_map import WeightsError

# What a file of before PyTorch 1.6 begins with.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
# What reading a file that is none, or is made to mislead, may raise.
UNREADABLE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ImportError,
    MemoryError,
    OverflowError,
    RecursionError,
)


class Storage(NamedTuple):
    """A row of numbers in the file, from its `start` on; without a `dtype`, of a type unknown."""

    key: str
    dtype: np.dtype | None
    size: int
    start: int


class StoredTensor(NamedTuple):
    """Where a tensor lies: all that is known of it before it is read. Strides count numbers."""

    storage: Storage
    offset: int
    shape: tuple
    strides: tuple

    @property
    def dtype(self):
        return self.storage.dtype

    @property
    def span(self):
        """From its first number to its last."""
        if 0 in self.shape:
            return 0
        steps = zip(self.shape, self.strides, strict=True)
        return 1 + sum((size - 1) * stride for size, stride in steps)


class Inert:
    """An object of a class that is not looked up: what the file has it made of, and no behavior.

    Attributes:
        arguments: tuple. What it was called with.
        state: what its attributes were set to; `None` where they were not.
    """

    def __new__(cls, *arguments, **_):
        self = super().__new__(cls)
        self.arguments = arguments
        self.state = None
        return self

    def __init__(self, *_, **__):
        pass

    def __setstate__(self, state):
        self.state = state

    def _ignore(self, *_):
        pass

    __setitem__ = append = extend = add = _ignore  # of a dict, a list or a set by another name


class _Dict(dict):
    """A dict; that the file may call one by another name, with attributes, is forgotten."""

    def __setstate__(self, state):
        pass


class _Unpickler(pickle._Unpickler):
    """The unpickler in Python: the one in C takes gigabytes of memory if a file says so."""

    def __init__(self, file):
        super().__init__(file, encoding="latin1")
        # Made anew for each file: what one file sets on a class, the next does not see.
        ordered = type("OrderedDict", (_Dict,), {})
        self.names = {
            ("collections", "OrderedDict"): ordered,
            ("torch._utils", "_rebuild_tensor_v2"): lambda *args: _tensor(*args[:4]),
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
        }

    def find_class(self, module, name):
        key = (module, name)
        if key not in self.names:
            if module == "torch" and name in DTYPES:
                self.names[key] = (DTYPES[name],)  # a tuple: nothing can be set on it
            else:
                self.names[key] = type(str(name), (Inert,), {})
        return self.names[key]

    def get_extension(self, code):
        raise pickle.UnpicklingError("a name of this process's, which none of these files has")

    def persistent_load(self, pid):
        kind, dtype, key, _, size, *view = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"{kind!r} where a storage belongs")
        # Numbers of a type that no model has spoil no other tensor: only reading them is refused.
        dtype = dtype[0] if isinstance(dtype, tuple) else None
        start = 0
        if view and view[0] is not None:  # a part of another one, in old files
            _, start, _ = view[0]
        return Storage(str(key), dtype, int(size), int(start))


def _tensor(storage, offset, shape, strides):
    """A record of a tensor that lies within its storage."""
    if not isinstance(storage, Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    numbers = [storage.start, offset, *shape, *strides]
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise pickle.UnpicklingError("a tensor of no shape")
    tensor = StoredTensor(storage, storage.start + offset, tuple(shape), tuple(strides))
    if tensor.offset + tensor.span > storage.size:
        raise pickle.UnpicklingError("a tensor that is larger than its storage")
    return tensor


class TorchFile:
    """What `torch.save` wrote, in the zip format or the one before it. Nothing is executed.

    Args:
        path: str.

    Attributes:
        name: str. The path.
        content: what was saved: dicts, lists, numbers, text, `StoredTensor`, and `Inert` for all
            else.

    Raises:
        WeightsError: for a file that is none or is cut off.
    """

    def __init__(self, path):
        self.name = os.fspath(path)
        try:
            read = _read_zip if zipfile.is_zipfile(path) else _read_legacy
            self.content, self._places = read(path)
        except UNREADABLE as error:
            reason = str(error).strip().split("\n")[0]
            # A lone key or number says nothing without the kind of error.
            reason = reason if " " in reason else f"{type(error).__name__}: {reason}".rstrip(": ")
            raise WeightsError(f"{path}: no readable PyTorch file ({reason}).") from None

    def read(self, tensor):
        """The numbers of a `StoredTensor`, as an array of the type that they have in the file.

        Raises:
            WeightsError: where the file does not hold them.
        """
        itemsize = tensor.dtype.itemsize
        place, size = self._places.get(tensor.storage.key, (0, 0))
        first, length = tensor.offset * itemsize, tensor.span * itemsize
        with open(self.name, "rb") as file:
            file.seek(place + first)
            data = file.read(max(0, min(length, size - first)))
        if len(data) < length:
            raise WeightsError(f"{self.name}: it is cut off; tensors that it names are not in it.")
        strides = [stride * itemsize for stride in tensor.strides]
        flat = np.frombuffer(data, tensor.dtype)
        return np.lib.stride_tricks.as_strided(flat, tensor.shape, strides).copy()


class StateDict:
    """Tensors of a `TorchFile` by their keys.

    Args:
        file: `TorchFile`.
        tensors: dict of str to `StoredTensor`.
    """

    def __init__(self, file, tensors):
        self.name = file.name
        self._file = file
        self._tensors = tensors

    def keys(self):
        """list of str."""
        return list(self._tensors)

    def shape(self, key):
        """tuple of int.

        Raises:
            WeightsError: for a tensor that repeats numbers, as none that was trained does: a small
                file could so claim all memory.
        """
        tensor = self._tensors[key]
        if math.prod(tensor.shape) > tensor.storage.size:
            raise WeightsError(
                f"{self.name}: {key} is {tensor.shape} of {tensor.storage.size} stored numbers."
            )
        return tensor.shape

    def read(self, key):
        """float32 array."""
        tensor = self._tensors[key]
        if tensor.dtype is None:
            raise WeightsError(f"{self.name}: {key} holds numbers of a type that is not read.")
        if tensor.dtype.kind in "biu":  # bfloat16 has a kind of its own
            raise WeightsError(f"{self.name}: {key} holds {tensor.dtype}, no real numbers.")
        return self._file.read(tensor).astype("float32", copy=False)


def _read_zip(path):
    """(content, dict of each storage to its place in the file and its bytes)."""
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise ValueError("a zip archive without one data.pkl")
        folder = names[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist():
            _check_order(archive.read(f"{folder}byteorder") == b"little")
        content = _Unpickler(io.BytesIO(archive.read(names[0]))).load()
        places = {}
        for info in archive.infolist():
            if not info.filename.startswith(f"{folder}data/"):
                continue
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError("its tensors are compressed, which PyTorch does not do")
            file.seek(info.header_offset)
            header = file.read(30)  # of the entry; its name and an extra field follow
            name_length, extra_length = struct.unpack("<HH", header[26:30])
            place = info.header_offset + 30 + name_length + extra_length
            places[info.filename.removeprefix(f"{folder}data/")] = (place, info.file_size)
    return content, places


def _read_legacy(path):
    """As `_read_zip`, for the format of before PyTorch 1.6: pickles, then the numbers."""
    storages = {}

    class Unpickler(_Unpickler):
        def persistent_load(self, pid):
            storage = super().persistent_load(pid)
            storages[storage.key] = storage
            return storage

    with open(path, "rb") as file:
        if _Unpickler(file).load() != LEGACY_MAGIC:
            raise ValueError("it does not begin as one")
        _Unpickler(file).load()  # the format's version: there has been one
        _check_order(_Unpickler(file).load().get("little_endian", True))
        content = Unpickler(file).load()
        places = {}
        for key in map(str, _Unpickler(file).load()):
            (count,) = struct.unpack("<q", file.read(8))
            if storages[key].dtype is None:
                raise ValueError("it holds numbers of a type that is not read")
            if count != storages[key].size:
                raise ValueError("its storages are not as long as it says")
            places[key] = (file.tell(), count * storages[key].dtype.itemsize)
            file.seek(sum(places[key]))
    return content, places


def _check_order(little):
    if not little:
        raise ValueError("its numbers are big-endian")
