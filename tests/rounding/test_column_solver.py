"""Rounding column by column, on bare layers."""

from itertools import product

import pytest
import torch

from hf_mpq.core import SubgroupLayout
from hf_mpq.rounding.column_solver import damped, solve_columns
from hf_mpq.rounding.grids import LevelGrid, target_weight, write_values
from hf_mpq.rounding.sign_rounding import SignRounding
from tests.nn.cases import LAYOUTS, linear_of

ALL_BITS = tuple(range(9))
QUANTIZERS = {
    "symmetric": {},
    "lsq": {"quantizer": "lsq"},
    "integer": {"quantizer_options": {"two_bits": "integer"}},
    "ternary": {"quantizer_options": {"two_bits": "ternary"}},
    "masked": {"mask": "element"},
}


def correlated(columns: int, seed: int = 0, tokens: int = 400) -> torch.Tensor:
    """`2/N sum x x^T` of inputs that depend on a few factors, `(in, in)` float64."""
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randn(3, columns, generator=generator)
    x = torch.randn(tokens, 3, generator=generator) @ factors + 0.3 * torch.randn(tokens, columns, generator=generator)
    return 2 * (x.T @ x).double() / tokens


def errors(weight: torch.Tensor, target: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    difference = (weight - target).double()
    return ((difference @ hessian) * difference).sum(1)


def solved(layer, hessian, by_activation=True):
    return solve_columns(target_weight(layer), hessian, LevelGrid.of(layer), by_activation, 0.01)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_grid_is_that_of_forward(layout, quantizer):
    for candidates in [(bits,) for bits in ALL_BITS[1:]] + [ALL_BITS]:
        layer = linear_of(LAYOUTS[layout], candidates, **QUANTIZERS[quantizer])
        assert torch.equal(LevelGrid.of(layer).nearest(layer.weight), layer.quantized_weight())


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_chosen_weights_come_back_exactly(layout, quantizer):
    for candidates in [(bits,) for bits in ALL_BITS[1:]] + [ALL_BITS]:
        layer = linear_of(LAYOUTS[layout], candidates, **QUANTIZERS[quantizer])
        layer.program.live_columns[3] = False
        layer.program.refresh()
        chosen = solved(layer, correlated(11))
        write_values(layer, LevelGrid.of(layer), chosen)
        assert torch.equal(layer.quantized_weight(), chosen)
        assert not chosen[:, 3].any()
        one = SignRounding(layer)
        one.shift.uniform_(-0.5, 0.5)
        one.factor.uniform_(0.5, 1.5)
        learned = one()
        one.write()
        assert torch.equal(layer.quantized_weight(), learned)


@pytest.mark.parametrize("by_activation", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_without_correlation_give_nearest_rounding(layout, by_activation):
    layer = linear_of(LAYOUTS[layout], ALL_BITS)
    hessian = torch.diag(torch.linspace(3, 0.1, 11, dtype=torch.float64))
    assert torch.equal(solved(layer, hessian, by_activation), layer.quantized_weight())


@pytest.mark.parametrize("by_activation", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_correlated_inputs_give_smaller_errors(bits, by_activation):
    layer = linear_of(SubgroupLayout.of("channel", (64, 40)), (bits,))
    hessian = correlated(40)
    nearest = errors(layer.quantized_weight(), layer.weight, hessian).sum()
    assert errors(solved(layer, hessian, by_activation), layer.weight, hessian).sum() < 0.6 * nearest


def test_close_to_the_best_of_all_codes():
    """Of the 4^5 codes of each row; the mean excess over the best is much smaller than nearest rounding's."""
    layer, hessian = linear_of(SubgroupLayout.of("channel", (24, 5)), (2,)), correlated(5)
    grid = LevelGrid.of(layer)
    codes = torch.tensor(list(product(range(-2, 2), repeat=5)), dtype=torch.float32)
    rows = [(codes + 0.5) * grid.step[row] - layer.weight[row] for row in range(24)]
    best = torch.stack([((row.double() @ hessian) * row).sum(1).min() for row in rows])
    nearest, chosen = (errors(w, layer.weight, hessian) for w in (layer.quantized_weight(), solved(layer, hessian)))
    assert (best <= chosen + 1e-9).all()
    assert (chosen - best).mean() < 0.4 * (nearest - best).mean()


def test_inputs_that_never_occur_are_rounded_to_nearest():
    layer, hessian = linear_of(SubgroupLayout.of("channel", (13, 11)), (3,)), correlated(11)
    hessian[4], hessian[:, 4] = 0, 0
    chosen = solved(layer, hessian)
    assert torch.equal(chosen[:, 4], layer.quantized_weight()[:, 4]) and chosen[:, 4].any()
    assert damped(hessian, 0.01).diagonal()[4] == 1
    assert torch.equal(solved(layer, torch.zeros_like(hessian)), layer.quantized_weight())


def test_pruned_columns_are_made_up_for():
    layer, hessian = linear_of(SubgroupLayout((13, 11), 4, axis=1), (0, 8)), correlated(11)
    chosen, nearest = solved(layer, hessian), layer.quantized_weight()
    assert torch.equal(chosen.any(dim=0), nearest.any(dim=0)) and not chosen.any(dim=0).all()
    assert errors(chosen, layer.weight, hessian).sum() < 0.3 * errors(nearest, layer.weight, hessian).sum()


def test_more_columns_than_a_block():
    layer, hessian = linear_of(SubgroupLayout.of("channel", (6, 300)), (2,)), correlated(300)
    nearest = errors(layer.quantized_weight(), layer.weight, hessian).sum()
    assert errors(solved(layer, hessian), layer.weight, hessian).sum() < 0.3 * nearest
