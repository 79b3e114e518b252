"""The serving benchmark on tiny models: that it compares the same numbers. Times are not tested."""

import pytest

from d2v_tf.benchmark.serving import markdown_rows, measure_serving

pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.mark.parametrize("modality", ["vision", "speech", "text"])
def test_both_compute_the_same(modality):
    found = measure_serving(modality, "tiny", batches=(1, 2), turns=1)
    assert set(found["batches"]) == {1, 2} and found["parameters"] > 10_000
    for result in found["batches"].values():
        # Random weights of a model that was never trained: hidden states of about 1.
        assert result["difference"] < 1e-4
        for name in ("served", "pytorch"):
            assert 0 < result[name]["low"] <= result[name]["median"] <= result[name]["high"]
    rows = [row.split(" | ") for row in markdown_rows(found)]
    assert [len(row) for row in rows] == [6, 6, 6, 6] and rows[1] == [
        "| ---",
        *["---"] * 4,
        "--- |",
    ]
    seconds = found["batches"][2]["served"]["median"]
    assert rows[3][1] == "2" and float(rows[3][2]) == pytest.approx(seconds, rel=0.01)
    assert markdown_rows(found, heading=False) == markdown_rows(found)[2:]
