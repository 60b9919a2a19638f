"""LQ-Nets' basis of activations: least squares, never worse than uniform, products by bit operations."""

from itertools import pairwise

import numpy as np
import pytest
import torch

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.core import SubgroupLayout
from hf_mpq.nn import calibrate_activations
from hf_mpq.nn.integers import IntegerMatrix
from hf_mpq.nn.walk import matrices
from hf_mpq.runtime.cuda import TensorCoreProduct
from hf_mpq.weights import ACTIVATIONS
from hf_mpq.weights.activations import FixedBasisQuantizer
from hf_mpq.weights.activations.basis import whole
from hf_mpq.weights.activations.sums import Sample, subsets, uniform_basis
from hf_mpq.weights.encodings import signs_of
from tests.contracts.gloo import run_two_processes
from tests.tiny import HEADS, outputs, tiny_batch, tiny_model
from tests.weights.cases import quantizer_of

LEARNED = [2, 3, 4]
GAUSSIAN = torch.erfinv(torch.linspace(-1, 1, 4003)[1:-1]) * 2**0.5
KINDS = {
    "gaussian": GAUSSIAN,
    "relu": GAUSSIAN.relu(),
    "gelu": torch.nn.functional.gelu(GAUSSIAN),
    "heavy": GAUSSIAN**3,
    "shifted": GAUSSIAN - 1,
}


def basis_of(values, bits, **options):
    quantizer = ACTIVATIONS["basis"](bits, **options).eval()
    quantizer.calibrate(values)
    return quantizer


def error(quantizer, values):
    return float((quantizer(values) - values).double().square().sum())


@pytest.mark.parametrize("bits", LEARNED)
def test_one_solve_is_least_squares(bits):
    sample, start = (
        Sample(GAUSSIAN - 0.3, bits),
        uniform_basis(torch.tensor(3.5 / 2**bits), torch.tensor(2.0 ** (bits - 1)), bits),
    )
    rows, start = np.array(subsets(bits), dtype=float), start.double()
    nearest = np.abs(sample.values.numpy()[:, None] - rows @ start.numpy()).argmin(1)
    wanted = np.linalg.lstsq(rows[nearest], sample.values.numpy(), rcond=None)[0]
    assert np.allclose(sample.solved(start.unsqueeze(0))[0], wanted, atol=1e-5)


@pytest.mark.parametrize("bits", LEARNED)
def test_no_round_of_it_adds_to_the_error(bits):
    sample = Sample(KINDS["gelu"], bits)
    bases, errors = sample.uniform()[:: 2**bits + 1], []
    for _ in range(20):
        errors.append(sample.error(bases))
        bases = sample.solved(bases)
    assert all((later <= earlier * (1 + 1e-6)).all() for earlier, later in pairwise(errors))
    assert (errors[-1] < 0.99 * errors[0]).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", LEARNED)
def test_it_is_never_worse_than_the_best_uniform_grid(bits, kind):
    """Of every zero point and 37 ranges; zero is a level of all."""
    values, found = KINDS[kind], basis_of(KINDS[kind], bits)
    uniform = float(Sample(values, bits).error(Sample(values, bits).best_starts())[0])
    assert error(found, values) <= 1.0005 * uniform
    if kind == "heavy":
        assert error(found, values) < 0.95 * uniform
    assert not found(torch.zeros(3)).any()


def test_four_levels_of_sums_reach_the_best_of_all():
    """Of ten numbers and two bits: every assignment of ascending numbers to the ascending levels, and every order."""
    for seed in range(4):
        values = torch.randn(10, generator=torch.Generator().manual_seed(seed)).sort().values.double()
        errors = []
        for order in ([0, 2, 1, 3], [0, 1, 2, 3], [2, 0, 3, 1], [1, 0, 3, 2], [3, 2, 1, 0], [2, 3, 0, 1]):
            for cuts in ((a, b, c) for a in range(11) for b in range(a, 11) for c in range(b, 11)):
                codes = np.array(order)[np.searchsorted(cuts, np.arange(10), side="right")]
                rows = np.array(subsets(2), dtype=float)[codes]
                found = np.linalg.lstsq(rows, values.numpy(), rcond=None)[0]
                errors.append(np.square(rows @ found - values.numpy()).sum())
        assert min(errors) * 0.999 <= error(basis_of(values.float(), 2), values.float()) <= 1.1 * min(errors) + 1e-3


def test_it_moves_by_a_tenth_towards_the_solution_and_not_by_gradients():
    quantizer = basis_of(GAUSSIAN, 3)
    before, (first, second) = quantizer.basis.double(), (1.5 * GAUSSIAN).split([2000, 2001])
    quantizer(first)
    quantizer.update()
    assert torch.equal(quantizer.basis.double(), before), "nothing is observed outside of training"
    quantizer.train()
    for part in (first, second):  # of one step
        quantizer(part)
    used = torch.stack(whole(before)[1:]).squeeze(0) * whole(before)[0]
    rows = torch.tensor(subsets(3)).double()
    nearest = ((1.5 * GAUSSIAN).double().unsqueeze(1) - rows @ used).abs().argmin(1)
    goal = np.linalg.lstsq(rows[nearest].numpy(), 1.5 * GAUSSIAN.numpy(), rcond=None)[0]
    quantizer.update()
    torch.testing.assert_close(quantizer.basis.double(), 0.9 * before + 0.1 * torch.tensor(goal), rtol=1e-4, atol=1e-4)
    assert not list(quantizer.parameters())


@pytest.mark.parametrize("bits", [5, 8])
def test_above_four_bits_levels_are_even_and_their_step_follows(bits):
    quantizer = basis_of(GAUSSIAN, bits, decay=0.0).train()
    grid = quantizer.grid(GAUSSIAN)
    assert grid.levels is None and grid.high == 2**bits - 1
    quantizer(1.05 * GAUSSIAN)
    quantizer.update()
    codes = grid.nearest(1.05 * GAUSSIAN / grid.step) - grid.zero
    goal = (codes * 1.05 * GAUSSIAN).sum() / codes.square().sum()
    torch.testing.assert_close(quantizer.grid(GAUSSIAN).step, goal, rtol=1e-4, atol=0)


def test_the_gradient_is_one_up_to_the_last_levels_and_zero_beyond():
    quantizer = basis_of(GAUSSIAN, 3)
    x = (3 * GAUSSIAN).requires_grad_()
    value = quantizer(x)
    value.sum().backward()
    inside = (x > value.min()) & (x < value.max())
    assert torch.equal(x.grad, inside.float()) and 0 < inside.float().mean() < 1


def test_nan_and_infinity_stay_visible():
    for quantizer in (basis_of(GAUSSIAN, 2), basis_of(GAUSSIAN, 2).frozen()):
        assert quantizer(torch.tensor([1.0, torch.nan, torch.inf])).isnan().tolist() == [False, True, True]


def test_whole_numbers_never_sum_to_more_than_127():
    for bits in LEARNED:
        for basis in torch.randn(200, bits, generator=torch.Generator().manual_seed(bits)):
            scale, parts = whole(basis)
            assert parts.abs().sum() <= 127 and (parts * scale - basis).abs().max() <= (bits + 1) * scale
        even = uniform_basis(torch.tensor(0.25), torch.tensor(1.0), bits)
        scale, parts = whole(even)
        torch.testing.assert_close(scale * parts, even)


@pytest.mark.parametrize("bits", LEARNED)
def test_products_with_a_basis_of_weights_are_and_and_popcount(bits):
    """Plane by plane, and equal to the exact integer sums of a backend's product."""
    weight = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    weights = quantizer_of("basis", SubgroupLayout((3, 64), 3), (bits,), weight)
    codes, floats = weights.encode(weight, bits)
    x = torch.randn(64, generator=torch.Generator().manual_seed(1)) - 0.2
    inputs = basis_of(x, bits)
    levels, grid = inputs.encode(x)
    _, parts = whole(inputs.basis)
    rows = torch.tensor(subsets(bits))
    chosen = rows[torch.sort((rows * parts).sum(1), stable=True).indices][torch.bucketize(levels, grid.levels)]
    as_bits = lambda plane: int("".join(str(int(bit)) for bit in plane), 2)  # noqa: E731
    for row in range(3):
        found = 0
        for i, part in enumerate(floats[row, 1:].int().tolist()):
            plane = as_bits(codes[row] >> (bits - 1 - i) & 1)
            for j, other in enumerate(parts.int().tolist()):
                mine = as_bits(chosen[:, j])
                found += part * other * (2 * (plane & mine).bit_count() - mine.bit_count())
        whole_weights = torch.tensor(signs_of(bits)).int()[codes[row].long()] @ floats[row, 1:].int()
        assert found == int(whole_weights @ (levels - grid.zero).int())


@pytest.fixture(scope="module")
def packed():
    config = MPQConfig(
        bits=2, groups="channel", quantizer="basis", activation="basis", activation_bits=3, projection_bits=None
    )
    model = hf_mpq.quantize(tiny_model("bert", num_hidden_layers=1), config)
    calibrate_activations(model, [tiny_batch()])
    return hf_mpq.pack(model).eval()


def test_it_is_saved_loaded_and_unpacked_bit_for_bit(packed, tmp_path):
    state, expected = {name: value.clone() for name, value in packed.state_dict().items()}, outputs(packed)[0]
    packed.save_pretrained(tmp_path)
    again = HEADS["sequence"].from_pretrained(tmp_path)
    assert torch.equal(outputs(again)[0], expected)
    hf_mpq.unpack(again)
    assert again.config.quantization_config.activation == "fixed-basis"
    torch.testing.assert_close(outputs(again)[0], expected, rtol=0, atol=1e-6)
    found = hf_mpq.pack(again).state_dict()
    assert state.keys() == found.keys() and all(torch.equal(value, found[name]) for name, value in state.items())
    with pytest.raises(ValueError, match=r"'basis'.*'static'"):
        hf_mpq.quantize(tiny_model("bert"), MPQConfig(activation="fixed-basis"))


def test_integer_products_are_exact(packed):
    """Of the tensor cores' product, in the steps that it has on every device."""
    for _, layer in matrices(packed, hf_mpq.nn.PackedLinear):
        assert isinstance(layer.input_quantizer, FixedBasisQuantizer)
        x = torch.randn(5, layer.in_features, generator=torch.Generator().manual_seed(2))
        matrix, (codes, grid) = IntegerMatrix.of(layer), layer.input_quantizer.encode(x)
        sums = (codes - grid.zero[..., None]).double() @ matrix.levels.double().T
        wanted = sums * matrix.scale.double() * grid.step.double().reshape(-1, 1) + matrix.bias.double()
        assert matrix.exact and matrix.levels.abs().max() <= 127 and codes.max() <= 127
        with torch.no_grad():
            torch.testing.assert_close(TensorCoreProduct(layer)(x).double(), wanted, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(layer(x).double(), wanted, rtol=1e-5, atol=1e-5)


def test_exports_that_have_even_levels_alone_are_refused(packed, tmp_path):
    for format, options in (("compressed-tensors", {}), ("onnx", {"activations": "dynamic"})):
        if hf_mpq.exporters.base.unmet(format) is None:
            with pytest.raises(ValueError, match=r"activations='float'"):
                hf_mpq.export(packed, format, tmp_path / format, **options)


def test_other_bits_have_the_same_range():
    for quantizer in (basis_of(GAUSSIAN, 4), basis_of(GAUSSIAN, 4).frozen()):
        before = quantizer(100 * GAUSSIAN)
        quantizer.set_bits(3)
        after = quantizer(100 * GAUSSIAN)
        assert len(after.unique()) == 8
        torch.testing.assert_close(after.max() - after.min(), before.max() - before.min(), rtol=1e-2, atol=0)


def _half(rank, folder):
    quantizer = basis_of(GAUSSIAN, 3).train()
    quantizer((2 * GAUSSIAN)[rank::2])
    quantizer.update()
    torch.save(quantizer.basis, folder / f"{rank}.pt")


def test_two_processes_learn_the_basis_of_all_inputs(tmp_path):
    run_two_processes(_half, tmp_path)
    one = basis_of(GAUSSIAN, 3).train()
    one(2 * GAUSSIAN)
    one.update()
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), one.basis, rtol=1e-5, atol=1e-6)
