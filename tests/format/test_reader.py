"""`docs/format.md` is enough: what its reader decodes is what hf_mpq does."""

import pytest
import torch

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.nn import relative_name
from hf_mpq.nn.packed import PackedMatrix
from tests.format.reader import read
from tests.tiny import tiny_model

KINDS = {
    "mixed": {"rules": {"query|output": {"bits": 2}, "key": {"bits": 8}}},
    "half-step": {"bits": 2, "quantizer": "symmetric", "quantizer_options": {"two_bits": "half-step"}},
    "affine": {"quantizer": "minmax", "scale_dtype": "float32"},
    "columns": {"groups": "columns:5", "mask": "n:m"},
    "n:m": {"mask": "n:m"},
    "1:4": {"mask": "n:m", "mask_options": {"kept": 1, "block": 4}},
    "runs": {"mask": "element", "mask_options": {"density": 0.1}},
    "flags": {"mask": "element", "mask_options": {"density": 0.5}, "rules": {"output": {"bits": 3}}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_in_another_language(kind, tmp_path):
    config = MPQConfig(**{"groups": 6, **KINDS[kind]})
    model = hf_mpq.quantize(tiny_model("bert", num_hidden_layers=1), config)
    fixed = hf_mpq.assignment_of(model).to_dict()
    for name, matrix in fixed["matrices"].items():
        if "intermediate" in name and kind != "columns":
            matrix["bits"] = [0, *matrix["bits"][1:]]  # folded columns follow
    if kind in ("mixed", "runs"):
        model = hf_mpq.quantize(
            tiny_model("bert", num_hidden_layers=1), MPQConfig(**{"groups": 6, **KINDS[kind], "assignment": fixed})
        )
    hf_mpq.pack(model).save_pretrained(tmp_path)
    found = read(tmp_path)
    layers = {relative_name(model, n): m for n, m in model.named_modules() if isinstance(m, PackedMatrix)}
    assert layers.keys() == found.keys()
    for name, layer in layers.items():
        assert torch.equal(torch.from_numpy(found[name].copy()), layer.decode()), name
