"""The examples in docstrings are run as they stand, from import to result."""

import inspect
import re

import keras
import numpy as np
import pytest
import soundfile

from d2v_tf.finetuning.ctc import Data2VecSpeechCTC
from d2v_tf.finetuning.optimizer import LayerwiseAdamW
from tests.interop.tiny import make_backbone


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the examples are run: with the runs and recordings that they name."""
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    for run, name in (("speech", "speech_invariant"), ("vision", "vision_per_block")):
        make_backbone(name).save_to_preset(f"runs/{run}/preset")
    for number, name in enumerate("ab"):
        noise = np.random.default_rng(number).normal(0, 0.1, 2500 - 500 * number)
        soundfile.write(f"{name}.wav", noise, 16_000)


def run_example(what):
    (code,) = re.findall("```python\n(.*?)```", inspect.getdoc(what), re.DOTALL)
    names = {}
    exec(code, names)  # ours, and nobody else's
    return names


def test_recognition(folder, capsys):
    names = run_example(Data2VecSpeechCTC)
    assert names["vocabulary"][4:] == ("|", *"ehnortw") and names["labels"].shape == (2, 7)
    assert names["freeze"].step == 30
    rate, heard = capsys.readouterr().out.splitlines()[-1].split(" ", 1)
    assert 0 <= float(rate) and heard == str(names["heard"])


def test_rates_by_layer(folder):
    names = run_example(LayerwiseAdamW)
    assert names["classifier"].optimizer.iterations == 10
    assert len(set(names["scales"].values())) > 2
