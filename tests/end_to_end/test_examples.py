"""The examples as a reader runs them, only smaller."""

import re
import runpy
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SMALL = [
    "model.num_layers=2",
    "model.hidden_dim=16",
    "model.num_heads=2",
    "model.intermediate_dim=32",
    "data2vec.num_target_layers=2",
    "data.probe_examples=100",
    "precision=float32",
    "xla=false",
    "batch_size=8",
]


def test_from_digits_without_labels_to_a_served_model(tmp_path, capsys):
    main = runpy.run_path(str(EXAMPLES / "digits.py"))["main"]
    main(str(tmp_path), "3", "1", *SMALL)
    said = capsys.readouterr().out
    assert (tmp_path / "run" / "report.html").exists()
    assert "features (2, 65, 16) attention (2, 2, 65, 65)" in said
    assert 0 <= float(re.search(r"'accuracy': ([0-9.]+)", said)[1]) <= 1
    assert re.search(r"is \d says b'\d'", said) or re.search(r"is \d says \[b'\d'\]", said)
    assert (tmp_path / "served" / "1" / "saved_model.pb").exists()
