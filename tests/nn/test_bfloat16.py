"""Products in bfloat16 where a CPU is made for them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hf_mpq.nn import bfloat16
from hf_mpq.nn.bfloat16 import bf16_products, own_products

X = torch.ones(2, 4)


def product_type(model: nn.Linear, wanted: bool | None = None) -> torch.dtype:
    with bf16_products(model, wanted):
        return F.linear(X.to(model.weight.dtype), model.weight).dtype


@pytest.mark.parametrize("there", [True, False])
def test_by_default_where_the_cpu_multiplies_it(monkeypatch, there):
    monkeypatch.setattr(bfloat16, "cpu_multiplies_bf16", lambda: there)
    linear = nn.Linear(4, 4)
    assert product_type(linear) == (torch.bfloat16 if there else torch.float32)
    assert product_type(linear, True) == torch.bfloat16 and product_type(linear, False) == torch.float32
    with torch.backends.mkldnn.flags(enabled=False):
        assert product_type(linear) == torch.float32, "nothing else multiplies it quickly"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_other_types_keep_them(dtype):
    assert product_type(nn.Linear(4, 4, dtype=dtype), True) == dtype


def test_some_products_are_in_the_own_type():
    linear = nn.Linear(4, 4)
    with bf16_products(linear, True):
        with own_products(linear):
            assert linear(X).dtype == torch.float32
        assert linear(X).dtype == torch.bfloat16
    assert linear(X).dtype == torch.float32


def test_a_weight_that_changes_is_not_remembered():
    linear = nn.Linear(4, 4, bias=False)
    with bf16_products(linear, True):
        first = linear(X)
        with torch.no_grad():
            linear.weight.add_(1.0)
        assert torch.allclose(linear(X), first + 4.0, atol=0.1)
