"""Terms over weights: what they are zero for, their gradient, and that a step has them once however it is cut."""

import pytest
import torch

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.nn.walk import matrices
from hf_mpq.training.objectives import OBJECTIVES, Signals, WeightObjective
from hf_mpq.training.objectives.bins import bin_shares
from hf_mpq.weights import ENCODINGS, QUANTIZERS
from tests.tiny import tiny_batch, tiny_model
from tests.training.runs import sentences
from tests.training.test_gradients import assert_same, recorded, two_processes

OVER_WEIGHTS = [name for name in OBJECTIVES if issubclass(OBJECTIVES[name], WeightObjective)]
MASKED = {"mask": "element", "mask_options": {"density": 0.4}}


def model_of(name: str = "symmetric", **fields):
    bits = {"bits": (2, 3), "nested": True} if name == "nested" else {"bits": 3, "quantizer": name}
    config = MPQConfig(**{**bits, "groups": 5, "embedding_bits": None, "projection_bits": None, **fields})
    return hf_mpq.quantize(tiny_model("bert", num_hidden_layers=1), config)


def bins_of(model):
    return OBJECTIVES["bin-regularisation"](model).of_weights(list(matrices(model)))


@torch.no_grad()
def error_of(model) -> float:
    return float(bins_of(model))


@pytest.mark.parametrize("fields", [{}, MASKED, {"groups": "columns:3"}], ids=["rows", "masked", "columns"])
@pytest.mark.parametrize("name", list(QUANTIZERS))
def test_it_is_zero_where_all_weights_are_levels_and_nowhere_else(name, fields):
    model = model_of(name, **fields)
    assert error_of(model) > 1e-3
    layers = [layer for _, layer in matrices(model)]
    with torch.no_grad():
        for layer in layers:
            layer.weight.copy_(layer.quantized_weight())
        assert error_of(model) < 1e-9
        sizes = layers[0].quantized_weight().abs()
        layers[0].weight[sizes == sizes[sizes > 0].median()] *= 1.1
    assert error_of(model) > 1e-6


@pytest.mark.parametrize("fields", [{}, MASKED, {"bits": (0, 2, 4)}], ids=["fixed", "masked", "open"])
def test_it_is_the_sum_of_squared_bias_and_variance_of_every_bin(fields):
    model, total = model_of(**fields), 0.0
    for _, layer in matrices(model):
        weight, program = layer.float_weight().detach(), layer.program
        bits, found = program.gate.derive().tolist(), 0.0
        for group, precision in enumerate(bits):
            if precision == 0:
                continue
            codes, floats = program.quantizer.encode(weight, precision)
            values = ENCODINGS[program.quantizer.encoding].decode(codes, program.layout.expand(floats), precision)
            inside = program.layout.index() == group
            free = torch.ones_like(weight, dtype=torch.bool) if program.keep() is None else program.keep()
            mine, levels = weight[inside][free[inside]].double(), values[inside][free[inside]].double()
            for level in levels.unique():
                of_bin = mine[levels == level]
                found += float((of_bin.mean() - level) ** 2 + of_bin.var(unbiased=False))
        total += found / len(bits)
    assert error_of(model) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize(
    "fields", [{}, MASKED, {"bits": (0, 2, 4), "gate": "neighbour"}], ids=["fixed", "masked", "open"]
)
def test_the_quantization_error_is_the_expected_square_over_the_squared_weights(fields):
    model, total = model_of("lsq", **fields), 0.0
    for _, layer in matrices(model):
        weight, program = layer.float_weight().detach(), layer.program
        shares = program.layout.expand(program.gate.usage().probabilities.detach())  # (out, candidates)
        for bits, share in zip(program.gate.candidates, shares.unbind(1)):
            value = program.quantizer.candidate(weight, bits) if bits else torch.zeros_like(weight)
            value = value if program.keep() is None else value * program.keep()
            total += float((share.unsqueeze(1) * (weight - value) ** 2).sum() / (weight**2).sum())
    found = OBJECTIVES["quantization-error"](model).of_weights(list(matrices(model)))
    assert float(found.detach()) == pytest.approx(total, rel=1e-4) and total > 0
    found.backward()
    for _, layer in matrices(model):
        assert layer.weight.grad.any() and layer.program.quantizer.step.grad is None
        if layer.program.gate.searching:
            assert (layer.program.gate.logits.grad[:, -1] < 0).all(), "it holds the upper neighbour up"


def test_three_weights_in_two_bins_by_hand():
    """The mean of two, 0.3, is 0.1 below the level 0.4, and each is 0.2 away from it; one alone has no variance."""
    values, levels = torch.tensor([[0.1, 0.5, 1.1]]), torch.tensor([[0.4, 0.4, 1.0]])
    shares = bin_shares(torch.tensor([[2, 2, 0]]), 4)
    torch.testing.assert_close(shares, torch.tensor([[0.5, 0.5, 1.0]]))
    found = (shares * (values - levels).square()).sum()
    torch.testing.assert_close(found, torch.tensor(0.1**2 + 0.1**2 + 0.2**2))
    free = torch.tensor([[True, False, True]])
    torch.testing.assert_close(bin_shares(torch.tensor([[2, 2, 0]]), 4, free), torch.tensor([[1.0, 0.0, 1.0]]))


def test_only_weights_that_are_free_get_a_gradient():
    model = model_of("lsq", **MASKED)
    bins_of(model).backward()
    for _, layer in matrices(model):
        assert layer.weight.grad.any() and not layer.weight.grad[~layer.program.mask.keep].any()
        assert layer.program.quantizer.step.grad is None, "levels stay where they are"


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.full)])
@pytest.mark.parametrize("name", OVER_WEIGHTS)
def test_a_step_has_the_term_once_however_it_is_cut(name, processes, tmp_path):
    stages = {"qat": {"objectives": {name: {"weight": 3.0}}}}
    changes = {"num_train_epochs": 1, "train_dataset": sentences(16), "stages": stages}
    expected = recorded("uniform", tmp_path / "one", 8, 1, **changes)
    assert any(gradient is not None and gradient.any() for gradient in expected[0][0].values())
    assert set(expected[1][0]) >= {"loss", f"loss_{name}"}
    if processes == 1:
        assert_same(recorded("uniform", tmp_path / "more", 2, 4, **changes), expected)
        return
    for found in two_processes("uniform", tmp_path / "more", **changes):
        assert_same(found, expected)


@pytest.mark.parametrize("name", OVER_WEIGHTS)
def test_it_is_in_float32_owns_no_layer_and_needs_one(name):
    model = model_of().bfloat16()
    term = OBJECTIVES[name](model)
    assert not term.state_dict()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = term(Signals(model(**tiny_batch())), None, {})
    assert found.dtype == torch.float32 and found.isfinite()
    with pytest.raises(ValueError, match="reads quantized weights, and this BertForSequenceClassification has none"):
        OBJECTIVES[name](tiny_model("bert"))
