"""The recipes of embedders and of adapters over a tiny model and made-up sentences."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from hf_mpq.tasks import TASKS
from tests.tiny import tiny_model


@pytest.fixture
def embedder(tmp_path, tokenizer, monkeypatch):
    """A tiny pipeline in a folder, in the place of MiniLM."""
    import compress_embedder
    import embedding_study

    folder = tmp_path / "tiny"
    model = tiny_model("bert", "bare", vocab_size=len(tokenizer), pad_token_id=0, max_position_embeddings=64)
    model.save_pretrained(folder / "model")
    tokenizer.model_max_length = 48
    tokenizer.save_pretrained(folder / "model")
    SentenceTransformer(str(folder / "model"), device="cpu").save_pretrained(str(folder / "pipeline"))
    monkeypatch.setattr(embedding_study, "get_model_path", lambda: str(folder / "pipeline"))
    return compress_embedder


def test_every_row_is_written_once_and_the_pipelines_load(embedder, data_dir, tmp_path, monkeypatch, capsys):
    command = [
        "compress_embedder.py",
        "--data_dir",
        str(data_dir),
        "--budgets",
        "0.2x",
        "--prune",
        "0.2x",
        "--calibration",
        "16",
        "--train_sentences",
        "16",
        "--epochs",
        "1",
        "--batch_size",
        "8",
        "--rounding",
        "nearest",
        "--dev_rows",
        "12",
        "--out",
        str(tmp_path / "out"),
    ]
    monkeypatch.setattr(sys, "argv", command)
    embedder.main()
    file = tmp_path / "out" / "results.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["model"] for row in rows] == [
        "float",
        "torch dynamic int8",
        "ONNX Runtime dynamic int8",
        "training-free",
        "trained",
        "training-free, fewer tokens",
    ]
    assert all(-100 <= row["spearman"] <= 100 for row in rows)
    ours = rows[3:]
    assert ours[0]["bytes"] == (tmp_path / "out" / "0.2x-mean" / "training-free" / "model.safetensors").stat().st_size
    assert max(row["bytes"] for row in ours) < 0.5 * rows[0]["bytes"] and ours[2]["tokens"] < 2000
    for name in ("trained", "pruned"):
        folder = tmp_path / "out" / "0.2x-mean" / name
        assert SentenceTransformer(str(folder), device="cpu").encode(["a list"]).shape == (1, 32)
    assert (folder / "pruned_vocabulary.json").exists()
    assert capsys.readouterr().out.count("| training-free |") == 1
    embedder.main()
    assert len(file.read_text().splitlines()) == 6, "nothing is run again"


def test_beside_embedders_without_an_encoder(embedder, data_dir, tmp_path, monkeypatch, capsys):
    command = ["compress_embedder.py", "--data_dir", str(data_dir), "--budgets", "0.2x", "--prune", "--dev_rows", "8"]
    monkeypatch.setattr(
        sys,
        "argv",
        [
            *command,
            "--rounding",
            "nearest",
            "--train_sentences",
            "0",
            "--calibration",
            "8",
            "--static",
            "--paragraphs",
            "3",
            "--out",
            str(tmp_path / "out"),
        ],
    )
    if find_spec("model2vec") is None or find_spec("wordllama") is None:
        with pytest.raises(SystemExit):
            embedder.main()
        assert "pip install" in capsys.readouterr().err
        pytest.skip("model2vec and wordllama are not installed")
    embedder.main()
    assert "wordllama" in capsys.readouterr().out


def test_questions_find_their_paragraphs(data_dir, embedder, monkeypatch):
    import embedding_study
    from static_embedders import in_sentence_transformers

    study = embedding_study.EmbeddingStudy(data_dir, dev_rows=8, paragraphs=4)
    queries, corpus = study.retrieval.queries, study.retrieval.corpus
    assert len(queries) == len(corpus) == len({*corpus}) > 1
    number = {text: place for place, texts in enumerate(zip(queries, corpus)) for text in texts}
    perfect = in_sentence_transformers(lambda texts: np.eye(8)[[number[text] for text in texts]], 8)
    assert study.ndcg(perfect) == pytest.approx(100)
    shifted = {text: (place + (text in queries)) % len(queries) for text, place in number.items()}
    wrong = in_sentence_transformers(lambda texts: np.eye(8)[[shifted[text] for text in texts]], 8)
    assert study.ndcg(wrong) < 100


def test_adapters_recover_what_two_bits_lost(data_dir, checkpoint, tmp_path, monkeypatch):
    import recover_with_lora
    import study

    models = tmp_path / "float"
    models.mkdir()
    (models / "sst2-seed0-float").symlink_to(checkpoint(TASKS["sst2"]))
    monkeypatch.setattr(study, "get_model_path", lambda: str(checkpoint(TASKS["sst2"])))
    command = [
        "recover_with_lora.py",
        "--data_dir",
        str(data_dir),
        "--task",
        "sst2",
        "--rounding",
        "nearest",
        "--epochs",
        "1",
        "--models",
        str(models),
        "--out",
        str(tmp_path / "out"),
    ]
    monkeypatch.setattr(sys, "argv", command)
    recover_with_lora.main()
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    names = ["float", "packed", "packed, with adapters", "adapters in the file"]
    assert [row["model"] for row in rows] == names
    assert rows[1]["megabytes"] < rows[3]["megabytes"] < rows[0]["megabytes"]
    assert rows[3]["kl"] == pytest.approx(rows[2]["kl"], abs=0.01) and rows[2]["kl"] != rows[1]["kl"]
    assert Path(tmp_path / "out" / "merged" / "tokenizer.json").exists()
