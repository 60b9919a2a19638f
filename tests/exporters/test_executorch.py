"""Programs of ExecuTorch, run by its own runtime."""

import pytest
import torch

import hf_mpq
from hf_mpq.exporters.base import unmet
from tests.tiny import tiny_model

if unmet("executorch"):
    pytest.skip(unmet("executorch"), allow_module_level=True)
pytestmark = pytest.mark.full  # a program takes half a minute

SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}


def run(folder, ids: torch.Tensor) -> torch.Tensor:
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(folder / "model.pte").load_method("forward")
    found = method.execute([ids, torch.ones_like(ids), torch.zeros_like(ids)][: method.metadata.num_inputs()])
    return found[0].clone()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_it_answers_as_the_model_at_every_length(family, bits, tmp_path):
    config = hf_mpq.MPQConfig(bits=bits)
    model = hf_mpq.pack(hf_mpq.quantize(tiny_model(family, "sequence", **SIZES), config)).eval()
    folder = hf_mpq.export(model, "executorch", tmp_path / "out")
    for tokens in (4, 25):
        ids = torch.arange(3, 3 + tokens)[None]
        with torch.no_grad():
            want = model(input_ids=ids).logits
        torch.testing.assert_close(run(folder, ids), want, rtol=1e-3, atol=2e-3)
    assert (folder / "config.json").exists()


def test_float_inputs(tmp_path):
    config = hf_mpq.MPQConfig(bits=4, activation_bits=None)
    model = hf_mpq.pack(hf_mpq.quantize(tiny_model("bert", "bare", **SIZES), config)).eval()
    folder, ids = hf_mpq.export(model, "executorch", tmp_path / "out"), torch.arange(3, 12)[None]
    with torch.no_grad():
        torch.testing.assert_close(run(folder, ids), model(input_ids=ids)[0], rtol=1e-4, atol=1e-4)
