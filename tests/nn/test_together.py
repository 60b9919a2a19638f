"""A model whose layers are quantized together computes what it computes layer by layer."""

import pytest
import torch

import hf_mpq
from hf_mpq.nn import MPQLinear
from hf_mpq.nn.together import quantized_together
from tests.tiny import MOST, tiny_batch, tiny_model

SEVERAL_CALLS = ("albert", "deberta-v2")
"""Families that call a layer several times in a forward pass."""


def run(model, together):
    """Logits, every gradient by name, None where there is none, and how many layers were joined."""
    model.zero_grad()
    if together:
        with quantized_together(model):
            logits = model(**tiny_batch()).logits
            joined = sum("coded_weight" in vars(one) for one in model.modules())
    else:
        logits, joined = model(**tiny_batch()).logits, 0
    logits.square().sum().backward()
    return logits, {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}, joined


@pytest.mark.parametrize("family", MOST)
@pytest.mark.parametrize("method", ["mpq", "aq-bert", "uniform"])
def test_logits_and_gradients_are_the_same_bit_for_bit(family, method):
    config = {"bits": 4} if method == "uniform" else {"budget": "2.5bits"}
    model = hf_mpq.quantize(tiny_model(family), hf_mpq.MPQConfig(method=method, **config)).eval()
    alone, layer_by_layer, _ = run(model, together=False)
    together, joined, count = run(model, together=True)
    assert torch.equal(alone, together)
    assert count > sum(isinstance(one, MPQLinear) for one in model.modules()) // 2
    for name, gradient in layer_by_layer.items():
        assert (gradient is None) == (joined[name] is None), name
        if gradient is not None and family in SEVERAL_CALLS:  # quantized once for all calls: another order of their sum
            torch.testing.assert_close(gradient, joined[name], rtol=1e-4, atol=1e-6)
        elif gradient is not None:
            assert torch.equal(gradient, joined[name]), name


def test_nothing_stays_behind():
    model = hf_mpq.quantize(tiny_model("bert"), hf_mpq.MPQConfig(method="uniform", bits=4))
    before = {name: set(vars(one)) for name, one in model.named_modules()}
    with pytest.raises(RuntimeError, match="stop"), quantized_together(model):
        raise RuntimeError("stop")
    assert {name: set(vars(one)) for name, one in model.named_modules()} == before
