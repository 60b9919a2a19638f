"""Rounding with learned shifts and steps is its formula, and a step goes by the gradients that autograd makes of it."""

import pytest
import torch

from hf_mpq.core import replace_forward
from hf_mpq.rounding.grids import LevelGrid
from hf_mpq.rounding.shifted import move_shifts, shifted_values

RATE = torch.tensor(0.05)


def written_out(shift, step, weight, grid):
    """Straight-through, one operation after the other."""
    exact = weight / torch.where(step == 0, torch.ones_like(step), step) - grid.half + shift
    level = grid.clamp(replace_forward(exact, torch.round(exact)))
    return torch.where(grid.kept, (level + grid.half) * step, 0.0)


def drawn(size, shape):
    """Shifts, steps of a shape, weights, and their grid; some weights lie beyond it, and some are not kept."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *size: torch.rand(*size, generator=generator)  # noqa: E731
    weight, shift, step = draw(*size) - 0.5, draw(*size) - 0.5, 0.02 + 0.2 * draw(*shape)
    low = torch.full(shape, -2.0)
    grid = LevelGrid(step, low, -low - 1, torch.full(shape, 0.5), draw(*size) > 0.1)
    return shift, step, weight, grid, draw(*size) - 0.5


@pytest.mark.parametrize("shape", [(7, 1), (1, 12), (1, 1)])
def test_values_and_gradients(shape):
    shift, step, weight, grid, upstream = drawn((7, 12), shape)
    shift.requires_grad_(), step.requires_grad_()
    wanted = written_out(shift, step, weight, grid)
    to_shift, to_step = torch.autograd.grad(wanted, (shift, step), upstream)
    shift, step = shift.detach(), step.detach()
    assert torch.equal(shifted_values(shift, step, weight, *grid[1:], torch.float32), wanted)
    assert torch.equal(shifted_values(shift, step, weight, *grid[1:], torch.bfloat16), wanted.bfloat16())
    moved = shift.clone()
    torch.testing.assert_close(move_shifts(upstream, moved, step, weight, *grid[1:], RATE), to_step)
    assert torch.equal(moved, (shift - RATE * to_shift.sign()).clamp(-0.5, 0.5))
    assert (moved == shift).any() and (moved.abs() == 0.5).any()


def test_compiled_and_eager_steps_are_the_same():
    shift, step, weight, grid, upstream = drawn((300, 300), (300, 1))
    eager = shift.clone()
    wanted = move_shifts.eager(upstream, eager, step, weight, *grid[1:], RATE)
    torch.testing.assert_close(move_shifts(upstream, shift, step, weight, *grid[1:], RATE), wanted)
    assert torch.equal(shift, eager)
