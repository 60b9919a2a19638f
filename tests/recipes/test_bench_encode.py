"""The comparison of embedders: each gives vectors of its model, and those that cannot run say what they need."""

import sys

import pytest
from datasets import Dataset

pytestmark = pytest.mark.full


def test_embedders_are_measured_side_by_side(tmp_path, monkeypatch, capsys):
    import bench_encode

    rows = [{"sentence1": f"a man opens {k} doors", "sentence2": "a door opens", "label": k / 2} for k in range(8)]
    for split in ("train", "validation"):
        Dataset.from_list(rows).to_json(tmp_path / "stsb" / f"{split}.jsonl")
    words = ["--rounds", "1", "--texts", "4", "--embedders", "fp32", "ours", "llama"]
    monkeypatch.setattr(sys, "argv", ["bench_encode.py", "--data_dir", str(tmp_path), *words])
    bench_encode.main()
    said = capsys.readouterr().out
    assert "not run: llama.cpp (" in said
    cells = {
        line.split(" | ")[0].strip("| "): line.strip("|").split(" | ") for line in said.splitlines() if "(" in line
    }
    kinds = ("sentence-transformers fp32", "ours cpu-native, 8 bits", "ours cpu-native, 4 bits")
    assert all(float(cells[name][-1]) > 0.99 for name in kinds)
