"""Scales of least squared error: against brute force, and the errors that are known for a Gaussian."""

import pytest
import torch

from hf_mpq.core import SubgroupLayout
from hf_mpq.weights import QUANTIZERS
from hf_mpq.weights.quantizers import Grid
from hf_mpq.weights.quantizers.scan import scan_scale
from tests.weights.cases import quantizer_of

GRIDS = {
    "sign": Grid.signed(1, True, True),
    "half-step": Grid.signed(2, True, True),
    "ternary": Grid.signed(2, False, True),
    "four integers": Grid.signed(2, False, False),
    "3 bits": Grid.signed(3, False, True),
    "4 bits, wide": Grid.signed(4, False, False),
    "8 bits": Grid.signed(8, False, True),
}
WEIGHTS = {
    "gaussian": lambda: torch.randn(4, 256),
    "uniform": lambda: torch.rand(4, 256) - 0.5,
    "two values": lambda: torch.randn(4, 256).sign() * 0.3,
    "three values": lambda: torch.randint(-1, 2, (4, 256)) * 0.02,
    "heavy tails": lambda: torch.randn(4, 256) / torch.rand(4, 256).clamp(min=0.05),
    "few": lambda: torch.randn(4, 3),
}


def errors(weight, grid, step):
    """Squared error of each row, `(rows,)`, in float64."""
    weight, step = weight.double(), step.double().unsqueeze(1)
    level = torch.clamp(torch.round(weight / step - grid.half), grid.low, grid.high)
    return ((level + grid.half) * step - weight).square().sum(1)


@pytest.mark.parametrize("draw", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_the_scan_finds_what_brute_force_finds(grid, draw):
    weight = draw()
    layout = SubgroupLayout.of("channel", weight.shape)
    found = errors(weight, grid, scan_scale(layout, weight, grid, torch.float32))
    top = weight.abs().amax(1)
    whole = errors(weight, grid, top / (grid.high + grid.half))
    tried = [errors(weight, grid, top / (grid.high + grid.half) * f) for f in torch.linspace(0.01, 1.2, 1000)]
    noise = 1e-9 * weight.double().square().sum(1)
    assert (found <= whole + noise).all()
    if weight.shape[1] > 3:  # the error of few weights, or at fine steps, is too jagged for any scan
        share = 1.5 if grid.high > 100 else 1.1
        assert (found <= share * torch.stack(tried).amin(0) + noise).all()


def test_steps_are_judged_as_they_will_be_stored():
    weight, grid = torch.randn(5, 64) * 1e-6, GRIDS["3 bits"]
    layout = SubgroupLayout.of("channel", weight.shape)
    step = scan_scale(layout, weight, grid, torch.float16)
    assert torch.equal(step, step.half().float())
    neighbours = [(step.half().view(torch.int16) + move).view(torch.float16).float() for move in (-1, 1)]
    assert all((errors(weight, grid, step) <= errors(weight, grid, other) + 1e-18).all() for other in neighbours)


def test_uneven_subgroups_are_scanned_alone():
    weight, grid = torch.randn(11, 40), GRIDS["4 bits, wide"]
    layout = SubgroupLayout(weight.shape, 4)
    together = scan_scale(layout, weight, grid, torch.float32)
    alone = [scan_scale(SubgroupLayout(p.shape), p, grid, torch.float32) for p in layout.split(weight)]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("name", ["symmetric", "lsq"])
@pytest.mark.parametrize(
    ("options", "bits", "error"),
    [
        ({"two_bits": "half-step"}, 2, 0.1188),
        ({"two_bits": "integer"}, 2, 0.150),
        ({"two_bits": "ternary"}, 2, 0.190),
        ({}, 1, 0.3634),
    ],
)
def test_errors_on_a_gaussian(name, options, bits, error):
    layout = SubgroupLayout((60, 1024))
    weight = torch.randn(layout.shape)
    quantizer = quantizer_of(name, layout, (bits,), weight, **options)
    measured = (quantizer.candidate(weight, bits).detach() - weight).square().mean() / weight.square().mean()
    assert measured == pytest.approx(error, rel=0.03)


@pytest.mark.parametrize("name", ["symmetric", "lsq"])
def test_sign_codes_are_the_mean_size(name):
    weight = torch.randn(6, 500) * torch.logspace(-2, 1, 6).unsqueeze(1)
    layout = SubgroupLayout.of("channel", weight.shape)
    value = quantizer_of(name, layout, (1,), weight).candidate(weight, 1)
    mean = weight.abs().mean(1, keepdim=True)
    assert torch.equal(value.sign(), weight.sign())
    assert ((value.abs() - mean).abs() <= 0.01 * mean).all()


def test_the_papers_start_of_learned_steps():
    weight = torch.randn(6, 20)
    layout = SubgroupLayout((6, 20), 3)
    quantizer = quantizer_of("lsq", layout, (2, 4), weight, start="paper", two_bits="integer")
    mean = torch.stack([part.abs().mean() for part in layout.split(weight)])
    torch.testing.assert_close(quantizer.step.detach(), torch.stack([2 * mean, 2 * mean / 7**0.5], dim=1))
    live = torch.arange(20) < 5
    quantizer.calibrate(weight * live, live.unsqueeze(0))
    mean = torch.stack([part[:, :5].abs().mean() for part in layout.split(weight)])
    torch.testing.assert_close(quantizer.step.detach()[:, 0], 2 * mean)


@pytest.mark.parametrize(("name", "options"), [("symmetric", {"two_bits": "wide"}), ("lsq", {"start": "zero"})])
def test_unknown_options_are_refused(name, options):
    with pytest.raises(ValueError, match="must be"):
        QUANTIZERS[name](SubgroupLayout((2, 2)), (2,), **options)
