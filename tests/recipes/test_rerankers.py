"""The comparison of rerankers: each is packed, reloaded and ranked with, and what is there is not run again."""

import json
import sys

import pytest
from datasets import Dataset

from tests.tiny import tiny_model

pytestmark = pytest.mark.full


def test_rerankers_are_measured_side_by_side(tmp_path, tokenizer, monkeypatch, capsys):
    import rerankers

    monkeypatch.setattr(rerankers, "find_spec", lambda name: None)
    monkeypatch.setattr(rerankers, "get_model_path", lambda: str(tmp_path / "pretrained"))
    model = tiny_model("bert", vocab_size=len(tokenizer), max_position_embeddings=256, pad_token_id=0).base_model
    model.save_pretrained(tmp_path / "pretrained")
    tokenizer.save_pretrained(tmp_path / "pretrained")
    words = ("list", "name", "value", "file", "class", "test")
    rows = [
        {
            "id": str(n),
            "title": f"article {n % 2}",
            "context": f"what a {words[n % 6]} is",
            "question": f"{n} {words[n % 6]}",
            "answers": {"text": ["what"], "answer_start": [0]},
        }
        for n in range(12)
    ]
    for split in ("train", "validation"):
        Dataset.from_list(rows).to_json(tmp_path / "squad" / f"{split}.jsonl")
    given = ["rerankers.py", "--data_dir", str(tmp_path), "--out", str(tmp_path / "out")]
    given += ["--models", str(tmp_path / "float"), "--questions", "6", "--train_questions", "6"]
    given += ["--calibration", "8", "--nearest", "8", "--compressed", "4", "--backend", "reference"]
    monkeypatch.setattr(sys, "argv", given)
    rerankers.main()
    file = tmp_path / "out" / "results.jsonl"
    found = {row["variant"]: row for row in map(json.loads, file.read_text().splitlines())}
    assert list(found) == ["float", "8 bits, nearest", "4 bits, compress"]
    assert found["float"]["correlation"] == pytest.approx(1) and found["8 bits, nearest"]["correlation"] > 0.9
    assert all(row["pairs"] == 18 and 0 < row["ndcg"] <= 100 and row["machine"] for row in found.values())
    assert found["float"]["megabytes"] > found["8 bits, nearest"]["megabytes"] > found["4 bits, compress"]["megabytes"]
    before = file.read_text()
    rerankers.main()
    assert file.read_text() == before, "rows that are there are not run again"
