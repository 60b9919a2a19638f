"""Scales of least squared error, by scanning shrunken ranges."""

from collections.abc import Callable
from contextvars import ContextVar, Token
from functools import partial

import torch
from torch import Tensor

from ...core import SubgroupLayout
from .grid import Grid

CHUNK = 1 << 17
"""Weights handled at a time, so that the passes of a scan stay in cache."""


class RememberedScans:
    """Scans of whole weights that are done while it is entered: one that is done again, of an equal weight, is looked
    up. Weights are kept as they are, and not copied; one that was changed since is scanned anew."""

    def __init__(self):
        self._found: dict[tuple, list[tuple[Tensor, int, Tensor]]] = {}
        self._before: list[Token] = []

    def __enter__(self) -> "RememberedScans":
        self._before.append(_remembered.set(self))
        return self

    def __exit__(self, *raised) -> None:
        _remembered.reset(self._before.pop())

    def scale(self, key: tuple, weight: Tensor, scan: Callable[[], Tensor]) -> Tensor:
        """What `scan` gives for a weight and everything else that it depends on."""
        known = self._found.setdefault(key, [])
        for other, version, scale in known:
            if other.device == weight.device and other._version == version and torch.equal(other, weight):
                return scale.clone()
        found = scan()
        known.append((weight, weight._version, found))
        return found.clone()


_remembered: ContextVar[RememberedScans | None] = ContextVar("remembered scans", default=None)


def scan_scale(
    layout: SubgroupLayout, weight: Tensor, grid: Grid, dtype: torch.dtype, live: Tensor | None = None
) -> Tensor:
    """Step of least squared error for each sub-group, `(groups,)`, among ranges from the largest |w| to 1/25 of it.

    A coarse scan of 22 geometrically spaced ranges is refined twice around each sub-group's best. Steps are rounded to
    `dtype` before they are judged, as they will be stored.

    Args:
        live: `(out, in)` bool; weights outside it count for nothing. None counts all.
    """
    scan, remembered = partial(_scanned, layout, weight, grid, dtype, live), _remembered.get()
    if remembered is None or live is not None or weight.is_inference():
        return scan()
    return remembered.scale((layout, grid, dtype, weight.dtype), weight, scan)


def _scanned(layout: SubgroupLayout, weight: Tensor, grid: Grid, dtype: torch.dtype, live: Tensor | None) -> Tensor:
    lines = layout.lines(weight)
    weights = None if live is None else layout.lines(live.expand_as(weight)).to(weight.dtype)
    widest = _widest(layout, weight, grid, live)
    factors = torch.logspace(0, -1.4, 22, dtype=weight.dtype, device=weight.device).expand(layout.count, -1)
    spacing = 10 ** (-1.4 / 21)
    for _ in range(3):
        best = _best_factor(layout, lines, weights, grid, widest, factors, dtype)
        spread = torch.linspace(-0.75, 0.75, 7, dtype=weight.dtype, device=weight.device)
        factors = (best.unsqueeze(1) * spacing**spread).clamp(max=1.0)
        spacing = spacing**0.25
    return to_scale(best * widest, dtype)


def widest_scale(
    layout: SubgroupLayout, weight: Tensor, grid: Grid, dtype: torch.dtype, live: Tensor | None = None
) -> Tensor:
    """Step at which the largest live |w| of each sub-group is the last level, `(groups,)`."""
    return to_scale(_widest(layout, weight, grid, live), dtype)


def _widest(layout: SubgroupLayout, weight: Tensor, grid: Grid, live: Tensor | None) -> Tensor:
    top = layout.reduce(weight.abs() if live is None else weight.abs() * live, "amax")
    return top / (grid.high + grid.half)


def to_scale(step: Tensor, dtype: torch.dtype) -> Tensor:
    """Steps as they are stored in `dtype`: rounded to it, the largest number of it at most."""
    return step.clamp(max=torch.finfo(dtype).max).to(dtype).to(step.dtype)


def _best_factor(layout, lines, weights, grid, widest, factors, dtype) -> Tensor:
    """The column of `factors` `(groups, n)` with the least error in each sub-group: `(groups,)`."""
    together = max(1, CHUNK // max(1, lines.numel()))
    errors = []
    for several in factors.split(together, dim=1):
        steps = layout.expand(to_scale(widest.unsqueeze(1) * several, dtype))
        errors.append(layout.reduce_lines(_line_errors(lines, weights, grid, steps), "sum"))
    position = torch.cat(errors, dim=1).argmin(dim=1, keepdim=True)
    return factors.gather(1, position).squeeze(1)


def _line_errors(lines: Tensor, weights: Tensor | None, grid: Grid, steps: Tensor) -> Tensor:
    """Squared error of each line with each of its steps `(lines, n)`: `(lines, n)`, a cache-sized chunk at a time."""
    size = max(1, CHUNK // max(1, lines.shape[1] * steps.shape[1]))
    parts = []
    for start in range(0, len(lines), size):
        part, scale = lines[start : start + size].unsqueeze(1), steps[start : start + size].unsqueeze(2)
        error = part / torch.where(scale == 0, torch.ones_like(scale), scale)
        error.sub_(grid.half).round_().clamp_(grid.low, grid.high).add_(grid.half).mul_(scale).sub_(part).square_()
        counted = error if weights is None else error.mul_(weights[start : start + size].unsqueeze(1))
        parts.append(counted.sum(2))
    return torch.cat(parts)
