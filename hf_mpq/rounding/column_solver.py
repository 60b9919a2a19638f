"""Rounding column by column, with the error of each made up for by the columns that follow (GPTQ)."""

import torch
from torch import Tensor

from .grids import LevelGrid

BLOCK = 128
"""Columns whose updates of the following columns are put off and done at once."""


def damped(hessian: Tensor, damping: float) -> Tensor:
    """Add `damping` times the mean of the diagonal to it, over inputs that occur; others get 1 on theirs, so that their
    weights are rounded to nearest, on their own."""
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    mean = diagonal.sum() / (~dead).sum().clamp(min=1)
    return hessian + torch.diag(torch.where(dead, 1.0, damping * mean))


def solve_columns(target: Tensor, hessian: Tensor, grid: LevelGrid, by_activation: bool, damping: float) -> Tensor:
    """Weights on `grid` with small `tr((W - W_hat) H (W - W_hat)^T)`, `(out, in)` float32.

    Columns that are zero in every row come first, then all in their order or by falling diagonal of H.

    Args:
        target: W, `(out, in)` float32.
        hessian: H, `(in, in)` float64.
    """
    grid = LevelGrid(*(part.expand_as(target) for part in grid))
    order = _order(hessian, grid, by_activation)
    factor = _inverse_factor(damped(hessian[order][:, order], damping)).to(target.dtype)
    grid = LevelGrid(*(part.T[order] for part in grid))
    columns = target.T[order]  # (in, out)
    for start in range(0, len(columns), BLOCK):
        stop = start + BLOCK
        part = LevelGrid(*(values[start:stop] for values in grid))
        errors = _round_block(columns[start:stop], factor[start:stop, start:stop], part)
        columns[stop:] -= factor[start:stop, stop:].T @ errors
    return torch.empty_like(columns).index_copy_(0, order, columns).T.contiguous()


def _order(hessian: Tensor, grid: LevelGrid, by_activation: bool) -> Tensor:
    keys = hessian.diagonal().clone() if by_activation else torch.zeros_like(hessian.diagonal())
    keys[~grid.kept.any(dim=0)] = torch.inf
    return torch.sort(keys, descending=True, stable=True).indices


def _inverse_factor(hessian: Tensor) -> Tensor:
    """Upper Cholesky factor of the inverse."""
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)


def _round_block(columns: Tensor, factor: Tensor, grid: LevelGrid) -> Tensor:
    """Round `(columns, out)` in place; returns each one's error over its diagonal of `factor`, same shape."""
    errors = torch.empty_like(columns)
    for j, column in enumerate(columns):
        chosen = LevelGrid(*(values[j] for values in grid)).nearest(column)
        errors[j] = (column - chosen) / factor[j, j]
        columns[j + 1 :] -= torch.outer(factor[j, j + 1 :], errors[j])
        columns[j] = chosen
    return errors
