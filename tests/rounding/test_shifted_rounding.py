"""The fused rounding with learned shifts and steps is what autograd makes of its formula."""

import pytest
import torch

from hf_mpq.core import replace_forward
from hf_mpq.rounding.grids import LevelGrid
from hf_mpq.rounding.shifted import ShiftedRounding, move_by_sign


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
    found = ShiftedRounding.apply(shift, step, weight, grid, torch.float32)
    wanted = written_out(shift, step, weight, grid)
    assert torch.equal(found, wanted)
    assert torch.equal(ShiftedRounding.apply(shift, step, weight, grid, torch.bfloat16), wanted.bfloat16())
    upstream = draw(7, 12) - 0.5
    for one, other in zip(*(torch.autograd.grad(value, (shift, step), upstream) for value in (found, wanted))):
        torch.testing.assert_close(one, other)


def test_a_step_goes_by_the_sign_and_stays_within_bounds():
    value, gradient = torch.tensor([0.0, 0.0, 0.0, 0.48, -0.48]), torch.tensor([3.0, -0.1, 0.0, -1.0, 1.0])
    move_by_sign(value, gradient, torch.tensor(0.05), -0.5, 0.5)
    assert value.tolist() == pytest.approx([-0.05, 0.05, 0.0, 0.5, -0.5])


def test_compiled_and_eager_steps_are_the_same():
    generator = torch.Generator().manual_seed(0)
    value, gradient = (torch.randn(300, 300, generator=generator) * 0.3 for _ in range(2))
    moved = value.clone()
    move_by_sign.eager(moved, gradient, torch.tensor(0.05), -0.5, 0.5)
    move_by_sign(value, gradient, torch.tensor(0.05), -0.5, 0.5)
    assert torch.equal(value, moved)
