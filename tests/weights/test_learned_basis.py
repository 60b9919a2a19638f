"""LQ-Nets' basis: least squares, the optimum of small cases, and products by bit operations."""

from itertools import combinations_with_replacement, pairwise

import numpy as np
import pytest
import torch

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.core import SubgroupLayout
from hf_mpq.weights import QUANTIZERS
from hf_mpq.weights.encodings import LARGEST_SUMS, signs_of
from hf_mpq.weights.quantizers import qem
from hf_mpq.weights.quantizers.grid import Grid
from hf_mpq.weights.quantizers.qem import places, solved, sorted_levels
from hf_mpq.weights.quantizers.scan import scan_scale
from tests.tiny import tiny_model
from tests.weights.cases import quantizer_of

ROW = SubgroupLayout((1, 12), 1)


def error(quantizer, weight, bits):
    return float((quantizer.candidate(weight, bits) - weight).square().sum())


def settled(weight, start, rounds=50):
    layout, basis, errors = SubgroupLayout(tuple(weight.shape), 1), start, []
    for _ in range(rounds):
        levels = sorted_levels(basis)[0]
        errors.append(float((levels[0][places(layout, weight, levels)] - weight).square().sum()))
        basis = solved(layout, weight, None, basis)
    return errors


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_one_solve_is_least_squares(bits):
    generator = torch.Generator().manual_seed(bits)
    weight = torch.randn(1, 500, generator=generator, dtype=torch.float64)
    layout, basis = SubgroupLayout((1, 500), 1), 0.5 ** torch.arange(bits, dtype=torch.float64).unsqueeze(0)
    levels, codes = sorted_levels(basis)
    signs = torch.tensor(signs_of(bits), dtype=torch.float64)[codes[0][places(layout, weight, levels)[0]]]
    wanted = np.linalg.lstsq(signs.numpy(), weight[0].numpy(), rcond=None)[0]
    assert np.allclose(np.sort(np.abs(wanted))[::-1], solved(layout, weight, None, basis)[0], atol=1e-5)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_no_round_of_it_adds_to_the_error(bits):
    weight = torch.randn(1, 2000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    errors = settled(weight, 0.7 ** torch.arange(bits, dtype=torch.float64).unsqueeze(0))
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in pairwise(errors))


@pytest.mark.parametrize(("bits", "wanted"), [(1, 0.3634), (2, 0.1179), (3, 0.0372), (4, 0.01157)])
def test_mean_squared_error_of_a_gaussian(bits, wanted):
    weight = torch.erfinv(torch.linspace(-1, 1, 40003)[1:-1]).unsqueeze(0) * 2**0.5
    quantizer = quantizer_of("basis", SubgroupLayout(tuple(weight.shape), 1), (bits,), weight)
    assert error(quantizer, weight, bits) / weight.numel() == pytest.approx(wanted, rel=0.02)


@pytest.mark.parametrize("seed", range(6))
def test_twelve_weights_reach_the_best_of_all_455_partitions(seed):
    weight = torch.randn(ROW.shape, generator=torch.Generator().manual_seed(seed))
    ordered = weight[0].double().sort().values.numpy()
    signs, errors = np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]), []
    for cuts in combinations_with_replacement(range(13), 3):
        rows = signs[np.searchsorted(cuts, np.arange(12), side="right")]
        basis = np.linalg.lstsq(rows, ordered, rcond=None)[0]
        errors.append(np.square(rows @ basis - ordered).sum())
    assert len(errors) == 455
    found = error(quantizer_of("basis", ROW, (2,), weight, scale_dtype=torch.float32), weight, 2)
    assert min(errors) * 0.999 <= found <= min(errors) * 1.05 + 1e-4


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_it_is_never_worse_than_the_uniform_grid(bits):
    for seed, heavy in enumerate((False, True) * 3):
        weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(seed))
        weight = weight**3 if heavy else weight
        layout = SubgroupLayout((8, 64), 8)
        ours, uniform = (quantizer_of(name, layout, (bits,), weight) for name in ("basis", "symmetric"))
        if bits in (1, 2):  # at more bits the symmetric grid is another: it has a level at zero
            assert error(ours, weight, bits) <= 1.002 * error(uniform, weight, bits)
        assert error(ours, weight, bits) <= 1.002 * error(half_steps(ours, weight, bits), weight, bits)


def half_steps(like, weight, bits):
    """The same quantizer at the uniform grid that it starts from."""
    found = QUANTIZERS["basis"](like.layout, (bits,))
    step = scan_scale(like.layout, weight, Grid.signed(bits, half_step=True, narrow=False), torch.float16)
    found._put(0, bits, step.unsqueeze(1) * 2.0 ** torch.arange(bits - 2, -2, -1))
    return found


def test_it_moves_by_a_tenth_towards_the_solution_and_not_by_gradients():
    weight = torch.randn(4, 50)
    layout = SubgroupLayout((4, 50), 4)
    quantizer = quantizer_of("basis", layout, (3,), weight)
    before, other = quantizer.basis[:, 0].clone(), 2 * weight
    goal = solved(layout, other, None, before)
    quantizer.update(other)
    torch.testing.assert_close(quantizer.basis[:, 0], 0.9 * before + 0.1 * goal)
    assert not list(quantizer.parameters())
    source = weight.clone().requires_grad_()
    quantizer.candidate(source, 3).backward(torch.full_like(source, 2.0))
    assert (source.grad == 2).all()


@pytest.mark.parametrize(("bits", "width"), [(1, 2), (2, 2), (3, 4), (4, 8)])
def test_products_by_and_and_popcount_are_exact(bits, width):
    """<w, a> of codes of weights and unsigned activations, plane by plane."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 64, generator=generator)
    quantizer = quantizer_of("basis", SubgroupLayout((3, 64), 3), (bits,), weight)
    codes, floats = quantizer.encode(weight, bits)
    inputs = torch.randint(2**width, (64,), generator=generator)
    as_bits = lambda values, bit: int("".join(str(int(v >> bit & 1)) for v in values), 2)  # noqa: E731
    for row in range(3):
        parts, found = floats[row, 1:].int().tolist(), 0
        for i, part in enumerate(parts):
            plane = as_bits(codes[row], bits - 1 - i)
            for j in range(width):
                other = as_bits(inputs, j)
                found += part * 2**j * (2 * (plane & other).bit_count() - other.bit_count())
        levels = torch.tensor(signs_of(bits)).int()[codes[row].long()] @ floats[row, 1:].int()
        assert found == int(levels @ inputs.int()) and levels.abs().max() <= 127


def test_whole_parts_of_a_uniform_grid_are_exact():
    for bits, total in LARGEST_SUMS.items():
        assert total % (2**bits - 1) == 0 and total <= 127


def test_precisions_beyond_it_are_refused_and_tables_keep_their_grid():
    with pytest.raises(ValueError, match="4 bits at most, got 8"):
        hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=(2, 8), quantizer="basis"))
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=2, groups="channel", quantizer="basis"))
    found = {spec.role: spec.quantizer for spec in model.hf_quantizer.space.weights.values()}
    assert found == {"encoder": "basis", "embedding": "symmetric", "projection": "symmetric"}


@pytest.mark.parametrize(
    "shape", [(6, 20), pytest.param((64, 1024), marks=pytest.mark.full)], ids=["eager", "compiled"]
)
def test_the_nearest_level_is_what_a_search_finds_and_the_lower_one_between_two(shape):
    layout = SubgroupLayout(shape, 3)
    lines, levels = torch.randn(shape), torch.randn(3, 8).sort(dim=1).values
    between = layout.expand((levels[:, 1:] + levels[:, :-1]) / 2)
    lines[:, :7] = between
    place = torch.searchsorted(between.contiguous(), lines)
    assert torch.equal(qem.places(layout, lines, levels), place)
    assert torch.equal(qem.nearest(layout, lines, levels), layout.expand(levels).gather(1, place))
    counts, sums = qem.moments(layout, place, lines, None, 8)
    there = torch.nn.functional.one_hot(place, 8).float()
    assert torch.equal(counts, layout.reduce_lines(there.sum(1), "sum"))
    torch.testing.assert_close(sums, layout.reduce_lines((there * lines.unsqueeze(2)).sum(1), "sum"))
