"""The fused rounding with learned shifts and steps is what autograd makes of its formula."""

import pytest
import torch

from hf_mpq.core import replace_forward
from hf_mpq.rounding.grids import LevelGrid
from hf_mpq.rounding.shifted import ShiftedRounding


def written_out(shift, step, weight, grid):
    """Straight-through, one operation after the other."""
    exact = weight / torch.where(step == 0, torch.ones_like(step), step) - grid.half + shift
    level = grid.clamp(replace_forward(exact, torch.round(exact)))
    return torch.where(grid.kept, (level + grid.half) * step, 0.0)


@pytest.mark.parametrize("shape", [(7, 1), (1, 12), (1, 1)])
def test_values_and_gradients(shape):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *size: torch.rand(*size, generator=generator)  # noqa: E731
    weight, shift = draw(7, 12) - 0.5, (draw(7, 12) - 0.5).requires_grad_()
    step = (0.02 + 0.2 * draw(*shape)).requires_grad_()
    low = torch.full(shape, -2.0)
    grid = LevelGrid(step.detach(), low, -low - 1, torch.full(shape, 0.5), draw(7, 12) > 0.1)
    found, wanted = ShiftedRounding.apply(shift, step, weight, grid), written_out(shift, step, weight, grid)
    assert torch.equal(found, wanted)
    upstream = draw(7, 12) - 0.5
    for one, other in zip(*(torch.autograd.grad(value, (shift, step), upstream) for value in (found, wanted))):
        torch.testing.assert_close(one, other)
