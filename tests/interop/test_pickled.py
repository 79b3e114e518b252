"""PyTorch's files without PyTorch: equal numbers, and nothing in them is executed."""

import argparse
import collections
import copyreg
import os
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from d2v_tf.interop.key_map import WeightsError
from d2v_tf.interop.pickled import Inert, StateDict, StoredTensor, TorchFile

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")

FORMATS = [(True, 2), (True, 5), (False, 2), (False, 4)]  # (zip, pickle protocol)


class Touch:
    """Pickled, it runs a command when it is unpickled by whoever executes what it finds."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Opcodes:
    """Pickled, other ways to the same end: `builtins.eval` and a class that is made, then built."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        make = f"__import__('os').system('touch {self.path}')"
        return eval, (make,), {"__setstate__": 1}, iter([1]), iter([("key", "value")])


def tensors():
    whole = torch.randn((5, 7), generator=torch.Generator().manual_seed(0))
    return {
        "float": whole,
        "parameter": torch.nn.Parameter(whole + 1),
        "transposed": whole.t(),
        "part": whole[1:4, 2::2],
        "half": whole.half(),
        "double": whole.double(),
        "bfloat16": whole.bfloat16(),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros((0, 3)),
    }


@pytest.mark.parametrize(("zipped", "protocol"), FORMATS)
def test_tensors_are_those_that_pytorch_reads(zipped, protocol, tmp_path):
    path = tmp_path / "file.pt"
    state = collections.OrderedDict(tensors())
    state._metadata = collections.OrderedDict(version=1)  # as of a module's state dict
    torch.save(state, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    file = TorchFile(path)
    assert list(file.content) == list(state)
    read = StateDict(file, file.content)
    for key, tensor in torch.load(path, weights_only=False).items():
        assert read.shape(key) == tuple(tensor.shape)
        got = read.read(key)
        assert got.dtype == "float32"
        np.testing.assert_array_equal(got, tensor.detach().float().numpy(), key)


def test_what_is_no_real_number_is_refused_by_name(tmp_path):
    torch.save({"steps": torch.arange(3), "mask": torch.ones(2).bool()}, tmp_path / "file.pt")
    file = TorchFile(tmp_path / "file.pt")
    for key, dtype in (("steps", "int64"), ("mask", "bool")):
        with pytest.raises(WeightsError, match=f"{key} holds {dtype}, no real numbers"):
            StateDict(file, file.content).read(key)


@pytest.mark.parametrize(("zipped", "protocol"), FORMATS)
@pytest.mark.parametrize("attack", [Touch, Opcodes])
def test_nothing_in_a_file_is_executed(attack, zipped, protocol, tmp_path):
    trace = tmp_path / "executed"
    content = {"model": {"a": torch.ones(2)}, "args": argparse.Namespace(b=attack(trace))}
    path = tmp_path / "file.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    file = TorchFile(path)
    np.testing.assert_array_equal(file.read(file.content["model"]["a"]), [1, 1])
    inert = file.content["args"].state["b"]
    assert isinstance(inert, Inert) and str(trace) in inert.arguments[0]
    assert not trace.exists()
    # The file would do it: to whoever executes it.
    with pytest.raises((TypeError, AttributeError)) if attack is Opcodes else _nothing():
        torch.load(path, weights_only=False)
    assert trace.exists()


class _nothing:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


@pytest.mark.parametrize(
    "opcodes",
    [
        b"c__builtin__\nexec\n(S'__import__(\"os\").mkdir(%r)'\ntR.",  # GLOBAL, REDUCE
        b"(S'__import__(\"os\").mkdir(%r)'\ni__builtin__\nexec\n.",  # INST
        b"(c__builtin__\nexec\nS'__import__(\"os\").mkdir(%r)'\no.",  # OBJ
    ],
)
def test_the_old_ways_of_calling_are_inert_too(opcodes, tmp_path):
    trace = tmp_path / "executed"
    pickled = opcodes.replace(b"%r", repr(str(trace)).replace("'", '"').encode())
    with zipfile.ZipFile(tmp_path / "file.pt", "w") as archive:
        archive.writestr("file/data.pkl", pickled)
    assert isinstance(TorchFile(tmp_path / "file.pt").content, Inert)
    assert not trace.exists()
    pickle.loads(pickled)  # noqa: S301
    assert trace.exists()


def test_names_that_the_process_registered_are_not_called(tmp_path):
    """`copyreg`'s codes stand for objects that are there already: no name is looked up."""
    trace = tmp_path / "executed"
    copyreg.add_extension("os", "mkdir", 240)
    try:
        pickled = b"\x80\x02\x82\xf0X" + struct.pack("<I", len(str(trace))) + str(trace).encode()
        pickled += b"\x85R."  # EXT1, the path, a tuple of it, REDUCE
        with zipfile.ZipFile(tmp_path / "file.pt", "w") as archive:
            archive.writestr("file/data.pkl", pickled)
        pickle.loads(pickled)  # noqa: S301
        assert trace.exists()
        trace.rmdir()
        with pytest.raises(WeightsError, match="file.pt: no readable PyTorch file"):
            TorchFile(tmp_path / "file.pt")
        assert not trace.exists()
    finally:
        copyreg.remove_extension("os", "mkdir", 240)
        copyreg.clear_extension_cache()


def test_a_few_bytes_take_no_more_memory_than_they_are(tmp_path):
    """As number 2^24 of the objects to remember, a dict takes 256 MB of Python's own unpickler."""
    with zipfile.ZipFile(tmp_path / "file.pt", "w") as archive:
        archive.writestr("file/data.pkl", b"\x80\x02}r" + struct.pack("<I", 2**24) + b".")
    tracemalloc.start()
    try:
        assert TorchFile(tmp_path / "file.pt").content == {}
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_one_file_changes_nothing_for_the_next(tmp_path):
    """Attributes set on what stands for a class, by `BUILD` with a pair of states, do not stay."""
    build = b"\x80\x02ctorch._utils\n_rebuild_parameter\nNX\x0c\x00\x00\x00__defaults__K\x01\x86"
    for target in (b"ccollections\nOrderedDict\n", b"cany\nthing\n", b"ctorch\nFloatStorage\n"):
        attack = b"\x80\x02" + target + b"N}X\x06\x00\x00\x00valuesK\x01s\x86b."
        with zipfile.ZipFile(tmp_path / "bad.pt", "w") as archive:
            archive.writestr("bad/data.pkl", attack)
        with pytest.raises(WeightsError, match="bad.pt: no readable PyTorch file"):
            TorchFile(tmp_path / "bad.pt")
    with zipfile.ZipFile(tmp_path / "bad.pt", "w") as archive:
        archive.writestr("bad/data.pkl", build)
    with pytest.raises(WeightsError):
        TorchFile(tmp_path / "bad.pt")
    torch.save(collections.OrderedDict(tensors()), tmp_path / "good.pt")
    assert list(TorchFile(tmp_path / "good.pt").content.values())


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_is_cut_off_is_named(zipped, tmp_path):
    path = tmp_path / "file.pt"
    torch.save(tensors(), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for length in range(0, len(whole), 101):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match="file.pt: (no readable|it is cut off)"):
            file = TorchFile(path)
            for tensor in file.content.values():
                file.read(tensor)


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(0, (9,), (1,)), (3, (6,), (1,)), (-1, (2,), (1,)), (0, (2, 2), (8, 1)), (0, (2,), (-1,)),
     (0, (2, 2), (1,)), (0, ("2",), (1,))],
)  # fmt: skip
def test_a_tensor_outside_its_storage_is_refused(offset, shape, strides, tmp_path, monkeypatch):
    """Read as it says, it would show the memory around it."""

    class Outside:
        def __reduce__(self):
            storage = torch.zeros(8).untyped_storage()
            typed = torch.storage.TypedStorage(
                wrap_storage=storage, dtype=torch.float32, _internal=True
            )
            return torch._utils._rebuild_tensor_v2, (typed, offset, shape, strides, False, {})

    torch.save({"a": Outside()}, tmp_path / "file.pt")
    with pytest.raises(WeightsError, match="file.pt: no readable PyTorch file"):
        TorchFile(tmp_path / "file.pt")


def test_repeated_numbers_are_refused_before_a_model_is_made_of_them(tmp_path):
    torch.save({"a": torch.zeros(3).expand(60_000_000, 3)}, tmp_path / "file.pt")
    assert (tmp_path / "file.pt").stat().st_size < 10_000
    file = TorchFile(tmp_path / "file.pt")
    with pytest.raises(WeightsError, match=r"a is \(60000000, 3\) of 3 stored numbers"):
        StateDict(file, file.content).shape("a")


def test_numbers_of_an_unknown_type_spoil_no_other_tensor(tmp_path):
    tensors = {"a": torch.ones(2), "b": torch.ones(2, dtype=torch.complex64)}
    torch.save(tensors, tmp_path / "file.pt")
    file = TorchFile(tmp_path / "file.pt")
    state = StateDict(file, file.content)
    np.testing.assert_array_equal(state.read("a"), [1, 1])
    with pytest.raises(WeightsError, match="b holds numbers of a type that is not read"):
        state.read("b")


@pytest.mark.parametrize("content", [b"", b"nonsense" * 20, b"PK\x03\x04" + bytes(200)])
def test_what_is_no_file_of_pytorch_is_named(content, tmp_path):
    (tmp_path / "file.pt").write_bytes(content)
    with pytest.raises(WeightsError, match="file.pt: no readable PyTorch file"):
        TorchFile(tmp_path / "file.pt")


def test_storages_that_are_parts_of_another(tmp_path):
    """DeepSpeed's weights are views of one long row of numbers."""
    flat = torch.arange(24.0)
    torch.save({"a": flat[:12].view(3, 4), "b": flat[12:].view(4, 3)}, tmp_path / "file.pt")
    file = TorchFile(tmp_path / "file.pt")
    assert isinstance(file.content["b"], StoredTensor)
    np.testing.assert_array_equal(file.read(file.content["b"]), np.arange(12.0, 24).reshape(4, 3))
