"""The comparison of embedders: each gives vectors of its model, and those that cannot run say what they need."""

import json
import sys

import pytest
from datasets import Dataset

pytestmark = pytest.mark.full


def test_embedders_are_measured_side_by_side(tmp_path, monkeypatch, capsys):
    import bench_encode

    rows = [{"sentence1": f"a man opens {k} doors", "sentence2": "a door opens", "label": k / 2} for k in range(8)]
    for split in ("train", "validation"):
        Dataset.from_list(rows).to_json(tmp_path / "stsb" / f"{split}.jsonl")
    words = ["--rounds", "1", "--texts", "4", "--embedders", "fp32", "ours", "llama", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["bench_encode.py", "--data_dir", str(tmp_path), *words])
    bench_encode.main()
    said = capsys.readouterr().out
    assert "not run: llama.cpp (" in said
    cells = {
        line.split(" | ")[0].strip("| "): line.strip("|").split(" | ") for line in said.splitlines() if "(" in line
    }
    kinds = ("sentence-transformers fp32", "ours cpu-native, 8 bits", "ours cpu-native, 4 bits")
    assert all(float(cells[name][-1]) > 0.99 for name in kinds)
    found = [json.loads(row) for row in (tmp_path / "out" / "minilm-1-threads.jsonl").read_text().splitlines()]
    assert [(row["embedder"], row["batch"]) for row in found] == [
        (name, size) for name in cells if name in kinds for size in (1, 32)
    ]
    assert all(row["texts_per_second"] > 0 and row["ratio"] > 0 and row["machine"] for row in found)
    assert all(row["ratio"] == 1 for row in found if row["embedder"] == kinds[0])
