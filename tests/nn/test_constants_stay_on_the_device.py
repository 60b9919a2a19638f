"""On a GPU every tensor made of Python numbers, and every index list, waits for all work under way there."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.core import METHODS
from tests.tiny import tiny_batch, tiny_model


class FromPython(TorchDispatchMode):
    """Counts the tensors that are made of Python numbers."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten.lift_fresh.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "fields",
    [{"method": name} for name in METHODS]
    + [
        {"quantizer": "minmax"},
        {"nested": True, "bits": (2, 4, 8)},
        {"bits": (0, 2, 4)},
    ],
    ids=str,
)
def test_a_step_makes_none(fields):
    config = MPQConfig(**{"groups": 8, "budget": "0.5x" if "method" in fields else None, **fields})
    model, plain = hf_mpq.quantize(tiny_model("bert"), config).train(), tiny_model("bert").train()
    plain.set_attn_implementation("eager")
    assert made_in_a_step(model) <= made_in_a_step(plain)  # an old transformers makes one for an eager mask


def made_in_a_step(model) -> int:
    batch = {**tiny_batch(), "labels": torch.zeros(3, dtype=torch.long)}
    model(**batch).loss.backward()
    with FromPython() as seen:
        model(**batch).loss.backward()
    return seen.count


@pytest.mark.full
@pytest.mark.filterwarnings("error:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.parametrize("method", ["mpq", "uniform"])
def test_compiled_models_take_them_as_they_are(method):
    """What a table looks up differs from batch to batch, and ends a graph; nothing in the layers does."""
    config = MPQConfig(method=method, groups=8, budget="0.5x")
    model = hf_mpq.quantize(tiny_model("bert"), config).train()
    torch._dynamo.reset()
    found = torch._dynamo.explain(model)(**tiny_batch())
    assert all("_unique2" in str(one.reason) for one in found.break_reasons) and found.graph_count < 12


@pytest.mark.full
def test_compiled_graphs_give_what_eager_steps_give():
    model = hf_mpq.quantize(tiny_model("bert", num_hidden_layers=1), MPQConfig(method="mpq", groups=5, budget="0.5x"))
    batch = {**tiny_batch(), "labels": torch.tensor([0, 1, 0])}
    expected = model(**batch).loss
    expected.backward()
    gradients = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad()
    torch._dynamo.reset()
    loss = torch.compile(model, backend="aot_eager")(**batch).loss
    loss.backward()
    torch.testing.assert_close(loss, expected)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=1e-5)


def test_the_count_counts():
    with FromPython() as seen:
        torch.tensor([1.0, 2.0])
    assert seen.count == 1


def test_constants_made_in_inference_serve_training():
    hf_mpq.core.constants._made.cache_clear()
    with torch.inference_mode():
        made = hf_mpq.core.constant((1.0, 2.0), torch.float32, torch.device("cpu"))
        assert torch.equal(made, torch.tensor([1.0, 2.0]))
    (torch.ones(2, requires_grad=True) * made).sum().backward()
    assert not made.is_inference()
