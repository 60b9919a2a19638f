"""Names of modules."""

from torch import nn

from hf_mpq.nn import modules_by_name


def test_modules_are_named_in_order_and_once_as_torch_does():
    shared, inner = nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.Identity())
    model = nn.ModuleDict(
        {"a": shared, "b": nn.Sequential(inner, shared, inner), "c": nn.ModuleList([nn.Linear(1, 1)])}
    )
    model.register_module("none", None)
    assert modules_by_name(model) == list(model.named_modules())
