"""What every test may rely on: few threads, fixed seeds, Keras' own defaults."""

import gc
import os
from pathlib import Path

# Read when TensorFlow and PyTorch start, so before either is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "2")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import keras  # noqa: E402
import pytest  # noqa: E402


def pytest_collection_modifyitems(items):
    """Files with slow tests first: several processes then end at about the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish():
    """What was imported stays: to look through it for garbage takes a second of every twenty."""
    gc.freeze()


@pytest.fixture(autouse=True)
def reset_keras():
    """Fixed seeds before each test; the default dtype policy after it."""
    keras.utils.set_random_seed(0)
    policy = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(policy)


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real data sets: `$D2V_DATA`, or `shared/data` beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("D2V_DATA", default))
    if not path.is_dir():
        pytest.skip(f"no data sets at {path}; set D2V_DATA to their folder")
    return path
