"""What CONTRIBUTING.md says to write works as it stands there."""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, RemBertConfig

import hf_mpq
from hf_mpq.core import METHODS, Assignment, MatrixAssignment
from hf_mpq.nn.families import FAMILIES
from hf_mpq.runtime import BACKENDS
from hf_mpq.runtime.backends import packed_linears
from tests.tiny import outputs, tiny_batch, tiny_model

GUIDE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
BLOCKS = {
    title: re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    for title, text in re.findall(r"^## (Add .*?)$(.*?)(?=^## |\Z)", GUIDE, flags=re.DOTALL | re.MULTILINE)
}


@pytest.fixture
def write(monkeypatch):
    """Runs the code of a section; what it registers goes with the test."""
    for registry in (METHODS, BACKENDS):
        list(registry)  # what registers at the first look does so before
        monkeypatch.setattr(registry, "_items", dict(registry._items))
    monkeypatch.setitem(FAMILIES, "rembert", None)
    monkeypatch.delitem(FAMILIES, "rembert")
    return lambda title: exec("".join(BLOCKS[title]), {})


def test_every_section_has_code():
    assert {title: len(blocks) for title, blocks in BLOCKS.items()} == dict.fromkeys(
        ("Add a method", "Add a family", "Add a backend"), 1
    )


def test_a_method(write):
    write("Add a method")
    small = hf_mpq.compress(tiny_model("bert"), "3bits", [tiny_batch()], method="my-method", progress=False)
    found = {bits for matrix in hf_mpq.assignment_of(small).matrices.values() for bits in matrix.bits}
    assert {2, 4} <= found <= {2, 4, 8}
    assert hf_mpq.MPQConfig(method="my-method", budget="3bits").bits == (2, 4)


SIZES = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 56}


def halved() -> torch.nn.Module:
    """A trainable model of the new family without every other row of its feed-forward."""
    model = AutoModelForSequenceClassification.from_config(
        RemBertConfig(**SIZES, max_position_embeddings=40, input_embedding_size=24)
    )
    config = hf_mpq.MPQConfig(groups="channel")
    bits = {name: [8] * spec.layout.count for name, spec in config.resolve(model).weights.items()}
    for name in bits:
        if name.endswith("intermediate.dense"):
            bits[name][::2] = [0] * (SIZES["intermediate_size"] // 2)
    config.assignment = Assignment({name: MatrixAssignment(tuple(each)) for name, each in bits.items()}).to_dict()
    return hf_mpq.quantize(model, config)


def test_a_family(write, tmp_path):
    """Once it is known, columns that read pruned rows are not stored, and the function is that which was trained."""
    unknown = hf_mpq.size_report(hf_mpq.pack(halved())).total_bytes
    write("Add a family")
    model = halved()
    before = outputs(model)
    hf_mpq.pack(model).save_pretrained(tmp_path)
    assert hf_mpq.size_report(tmp_path).total_bytes < unknown
    packed = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(outputs(packed), before, rtol=1e-4, atol=1e-4)


def test_a_backend(write):
    write("Add a backend")
    model = hf_mpq.pack(hf_mpq.quantize(tiny_model("bert"), hf_mpq.MPQConfig(bits=4)))
    with hf_mpq.use_backend("reference"):
        before = outputs(model)
    hf_mpq.prepare(model, backend="cpu-double")
    assert all("cpu-double" in layer.prepared for layer in packed_linears(model))
    torch.testing.assert_close(outputs(model), before)
