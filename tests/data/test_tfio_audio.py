"""tensorflow-io: used where it loads, left alone elsewhere, and never in the way."""

import io
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from d2v_tf.data import tfio_audio
from d2v_tf.data.audio_files import AudioError, audio_reader, read_audio
from tests.data.audio import RATE, noise, tone

ROOT = Path(__file__).resolve().parents[2]
# Made by `make`, with the TensorFlow that tensorflow-io is built for.
PYTHON = ROOT / ".venv-audio-io" / "bin" / "python"
INIT = """
from tensorflow_io.python.ops import core_ops
{}
"""
OPS = """
class Library:
    def __getattr__(self, name):
        raise NotImplementedError(name)
core_ops = Library()
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that puts a tensorflow-io whose operations do not load on the path."""

    def write(requirement, at_import=""):
        files = {
            "tensorflow_io/__init__.py": INIT.format(at_import),
            "tensorflow_io/python/__init__.py": "",
            "tensorflow_io/python/ops/__init__.py": OPS,
            "tensorflow_io-0.37.1.dist-info/METADATA": (
                "Metadata-Version: 2.1\nName: tensorflow-io\nVersion: 0.37.1\n"
                f"Requires-Dist: tensorflow-io-gcs-filesystem ==0.37.1\n{requirement}"
            ),
        }
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        monkeypatch.syspath_prepend(tmp_path)

    tfio_audio.native.cache_clear()
    yield write
    tfio_audio.native.cache_clear()
    for name in [n for n in sys.modules if n.split(".")[0] == "tensorflow_io"]:
        del sys.modules[name]


def assert_soundfile_reads(folder):
    path = str(folder / "a.wav")
    soundfile.write(path, noise(0, 0.5), RATE)
    np.testing.assert_array_equal(read_audio(path), noise(0, 0.5))
    soundfile.write(path, tone(500, 0.5, 8_000), 8_000)
    assert len(read_audio(path)) == 8_000
    assert audio_reader() == "soundfile and soxr"


def test_without_tensorflow_io_soundfile_reads(tmp_path, install):
    assert_soundfile_reads(tmp_path)
    assert "tensorflow_io" not in sys.modules


def test_a_tensorflow_io_for_another_tensorflow_is_not_imported(tmp_path, install):
    install(
        "Requires-Dist: tensorflow <2.17.0,>=2.16.0 ; extra == 'tensorflow'\n",
        "raise RuntimeError('it must not be imported')",
    )
    assert_soundfile_reads(tmp_path)
    assert "tensorflow_io" not in sys.modules


def test_a_tensorflow_io_that_does_not_load_is_not_used(tmp_path, install):
    install(f"Requires-Dist: tensorflow =={tf.__version__} ; extra == 'tensorflow'\n")
    assert_soundfile_reads(tmp_path)
    assert "tensorflow_io" in sys.modules  # so it has been tried


@pytest.fixture
def stand_in(monkeypatch):
    """A function that makes another one the native decoder of WAV."""

    def use(decode_wav):
        audio = types.SimpleNamespace(decode_wav=decode_wav)
        module = types.SimpleNamespace(audio=audio, __version__="0.99")
        monkeypatch.setattr(tfio_audio, "native", lambda: module)

    return use


def test_what_loads_is_used(tmp_path, stand_in):
    path = str(tmp_path / "a.wav")
    soundfile.write(path, np.zeros((800, 2)), RATE)
    contents = Path(path).read_bytes()

    def decode_wav(data, dtype):
        assert data == contents and dtype == tf.int16
        return tf.constant([[16384, -8192]] * 800, tf.int16)

    stand_in(decode_wav)
    assert audio_reader() == "tensorflow-io 0.99"
    np.testing.assert_array_equal(read_audio(path), np.full(800, 0.125))
    with open(path, "rb") as file:
        np.testing.assert_array_equal(read_audio(file), np.full(800, 0.125))


@pytest.mark.parametrize("shape", [None, (799, 1), (0, 1), (800, 2)])
def test_what_it_refuses_or_misreads_is_soundfiles(shape, stand_in):
    def decode_wav(data, dtype):
        if shape is None:
            raise tf.errors.InvalidArgumentError(None, None, "unsupported wBitsPerSample")
        return tf.zeros(shape, dtype)

    stand_in(decode_wav)
    file = io.BytesIO()
    soundfile.write(file, noise(1, 0.05), RATE, format="WAV")
    contents = file.getvalue()
    np.testing.assert_array_equal(read_audio(io.BytesIO(contents)), noise(1, 0.05))
    with pytest.raises(AudioError, match="it is 0.05 s long, shorter than the 1 s needed"):
        read_audio(io.BytesIO(contents), min_samples=RATE)


@pytest.mark.slow  # TensorFlow starts anew, and decodes hundreds of files
def test_native_results_are_soundfiles():
    if not PYTHON.exists():
        pytest.fail(f"there is no {PYTHON}: run `make .venv-audio-io/.installed`, or `make test`")
    # The contract of `read_audio` holds there too; transformers is what that environment lacks.
    done = subprocess.run(
        [
            *(PYTHON, "-m", "pytest", "-rs", "-p", "no:cacheprovider"),
            *("tests/data/native_audio.py", "tests/data/test_audio_files.py"),
            *("-k", "not hugging"),
        ],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,  # a decoder that does not come back
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def test_one_that_cannot_be_imported_is_left_alone(tmp_path, install):
    version = ".".join(tf.__version__.split(".")[:2])
    requirement = f"Requires-Dist: tensorflow ~={version}.0\n"
    install(requirement, at_import="raise ImportError('libtensorflow_io.so')")
    assert_soundfile_reads(tmp_path)
