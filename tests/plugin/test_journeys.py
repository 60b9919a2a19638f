"""DeBERTa-v3 and ModernBERT on every journey of the README that another test does not take them on.

Packing, reloading, exports, sentence-transformers and LoRA are in the tests of those.
"""

import json

import pytest
import torch

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.runtime import BACKENDS
from tests.plugin.models import close, differ, reload
from tests.tiny import VOCABULARY, outputs, tiny_model
from tests.training.runs import sentences, trainer

FAMILIES = ["deberta-v2", "modernbert"]


def rows(count: int = 24) -> list[dict]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, VOCABULARY, (count, 11), generator=generator)
    return [{"input_ids": row[: 5 + number % 7].tolist()} for number, row in enumerate(ids)]


@pytest.mark.parametrize("family", FAMILIES)
def test_compressed_under_a_budget(family, tmp_path):
    """Fisher scores, exact allocation and AutoRound, the word table in the same budget."""
    model = tiny_model(family)
    small = hf_mpq.compress(
        model,
        "0.2x",
        rows(),
        MPQConfig(bits=(2, 4, 8), groups=10),
        rounding={"name": "autoround", "iterations": 10},
        progress=False,
    )
    report, assignment = hf_mpq.size_report(small), hf_mpq.assignment_of(small)
    assert 0.15 < report.ratio <= 0.2
    assert len({bits for one in assignment.matrices.values() for bits in one.bits}) >= 3
    found = outputs(small)
    assert differ(outputs(model), found)
    hf_mpq.pack(small).save_pretrained(tmp_path)
    close(found, outputs(reload(tmp_path)))


@pytest.mark.parametrize("family", FAMILIES)
def test_searched_trained_and_packed(family, tmp_path):
    """The default method of the trainer: search, selection, training."""
    model = hf_mpq.quantize(tiny_model(family), MPQConfig(method="mpq", budget="3bits", groups=8))
    run = trainer(model, tmp_path, train_dataset=sentences(48), num_train_epochs=1, max_steps=8)
    run.train()
    assert hf_mpq.size_report(run.model).average_bits <= 3
    run.save_packed(tmp_path / "packed")
    close(outputs(run.model), outputs(reload(tmp_path / "packed")))
    finished = json.loads((tmp_path / "stages.json").read_text())["finished"]
    assert list(finished) == ["search", "qat"]


@pytest.mark.parametrize("family", FAMILIES)
def test_pruned_compacted_and_prepared(family, tmp_path):
    """Pruned feed-forward rows leave the products; integer products agree with the packed model."""
    bits = {"deberta-v2": "intermediate.dense", "modernbert": "mlp.Wi"}[family]
    model = tiny_model(family)
    config = MPQConfig(bits=8, groups=8, rules={f"{bits}$": {"bits": [0, 8]}}, activation="dynamic-token")
    small = hf_mpq.compress(model, "0.24x", rows(), config, rounding="nearest", progress=False)
    assert any(0 in one.bits for one in hf_mpq.assignment_of(small).matrices.values())
    hf_mpq.pack(small).save_pretrained(tmp_path)
    packed = outputs(reload(tmp_path))
    close(packed, outputs(hf_mpq.prepare(reload(tmp_path), "cpu-float")))
    for name in ("cpu-int8", "cpu-native"):
        if BACKENDS[name].unavailable(reload(tmp_path)) is None:
            close(packed, outputs(hf_mpq.prepare(reload(tmp_path), name)), 0.05)
