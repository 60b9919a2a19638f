"""Quantization-error minimisation (QEM) of LQ-Nets: the basis whose signed sums are nearest to some numbers.

Levels of a basis `v` `(K,)` are `+-v_1 +- ... +- v_K`; code bits say the signs, the first its highest. The two steps
that alternate are equations 8 and 9 of Zhang et al., ECCV 2018.
"""

import torch
from torch import Tensor

from ...core import SubgroupLayout, constant
from ..compilation import compiled_when_large
from ..encodings import signs_of

RIDGE = 1e-4
"""Added to the diagonal of the normal equations, with the old basis on the other side: a sign that never changes leaves
its part of the basis where it was."""


def sorted_levels(basis: Tensor) -> tuple[Tensor, Tensor]:
    """Levels ascending and the codes that they have, both `(groups, 2 ** K)`, of bases `(groups, K)`."""
    signs = constant(signs_of(basis.shape[1]), basis.dtype, basis.device)  # (2 ** K, K)
    return torch.sort(basis @ signs.T, dim=1, stable=True)


def places(layout: SubgroupLayout, lines: Tensor, levels: Tensor) -> Tensor:
    """Which of the ascending levels `(groups, n)` is nearest to each number of `(lines, length)`; the lower of two."""
    return _places(lines, layout.expand(_between(levels)))


def nearest(layout: SubgroupLayout, lines: Tensor, levels: Tensor) -> Tensor:
    """The level that is, `(lines, length)`."""
    return _nearest(lines, layout.expand(levels), layout.expand(_between(levels)))


def solved(layout: SubgroupLayout, lines: Tensor, kept: Tensor | None, basis: Tensor) -> Tensor:
    """Bases `(groups, K)` of least squares for the signs that each number has under the old ones; none is negative,
    the largest comes first."""
    levels, codes = sorted_levels(basis)
    place = places(layout, lines, levels)
    counts, sums = moments(layout, place, lines, kept, levels.shape[1])
    signs = constant(signs_of(basis.shape[1]), basis.dtype, basis.device)[codes]  # (groups, levels, K)
    ridge = RIDGE * torch.eye(basis.shape[1], dtype=basis.dtype, device=basis.device)
    left = signs.transpose(1, 2) @ (counts.unsqueeze(2) * signs) + ridge
    right = (sums.unsqueeze(1) @ signs).squeeze(1) + RIDGE * basis
    return torch.linalg.solve(left, right).abs().sort(dim=1, descending=True).values


def moments(
    layout: SubgroupLayout, place: Tensor, lines: Tensor, kept: Tensor | None, count: int
) -> tuple[Tensor, Tensor]:
    """How many numbers of each sub-group are at each level, and their sum: `(groups, count)` each."""
    found = _moments(lines, place, None if kept is None else kept.expand_as(lines).to(lines.dtype), count)
    return layout.reduce_lines(found[0], "sum"), layout.reduce_lines(found[1], "sum")


def _between(levels: Tensor) -> Tensor:
    return (levels[:, 1:] + levels[:, :-1]) / 2


# Comparisons with each of at most 15 boundaries are what a compiler makes vectors of, and no search is.


@compiled_when_large
def _places(lines: Tensor, between: Tensor) -> Tensor:
    place = torch.zeros_like(lines, dtype=torch.int64)
    for k in range(between.shape[1]):
        place = place + (lines > between[:, k : k + 1])
    return place


@compiled_when_large
def _nearest(lines: Tensor, levels: Tensor, between: Tensor) -> Tensor:
    value = levels[:, :1].expand_as(lines)
    for k in range(between.shape[1]):
        value = torch.where(lines > between[:, k : k + 1], levels[:, k + 1 : k + 2], value)
    return value


@compiled_when_large
def _moments(lines: Tensor, place: Tensor, kept: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
    counts, sums = [], []
    for k in range(count):
        here = (place == k).to(lines.dtype) if kept is None else torch.where(place == k, kept, 0.0)
        counts.append(here.sum(1))
        sums.append((here * lines).sum(1))
    return torch.stack(counts, dim=1), torch.stack(sums, dim=1)
