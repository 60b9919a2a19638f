"""Scales of codes that serve several precisions, by scanning the ranges that these have to share."""

from itertools import pairwise

import torch
from torch import Tensor

from ...core import SubgroupLayout
from ..encodings import Nested
from .scan import CHUNK, to_scale

RANGES = (*(1.5 + 0.25 * step for step in range(13)), 6.0, 8.0, 12.0)
"""In root mean squares of a sub-group, none above its largest |w|, which is tried as well."""
ENOUGH, BEYOND = 4, 1 / 3
"""A grid of more bits than enough is far finer than a model notices: its error is counted against that of so many
bits, and as such a share. Where it does not even halve the error of the next lower precision a range is too narrow."""
TOO_NARROW = 1e6


def scan_shared_range(
    layout: SubgroupLayout, weight: Tensor, precisions: tuple[int, ...], dtype: torch.dtype, live: Tensor | None = None
) -> Tensor:
    """Scale of each sub-group and precision of nested codes, `(groups, precisions)`, the top's being the codes' step.

    All precisions share the range of the top codes, and 8 bits alone would like one twice as wide as 2 bits. Of the
    candidate ranges each sub-group takes that of the least sum of relative errors: the squared error at every precision
    over what the best range for it alone would give. Scales of the lower precisions are those of least squares. All
    are rounded to `dtype` before they are judged, as they will be stored.

    Args:
        precisions: that are served, ascending.
        live: `(out, in)` bool; weights outside it count for nothing. None counts all.
    """
    top = precisions[-1]
    judged = precisions if top <= ENOUGH else tuple(sorted({*precisions, ENOUGH}))
    lines = layout.lines(weight)
    kept = torch.ones_like(lines) if live is None else layout.lines(live.expand_as(weight)).to(lines.dtype)
    energy = layout.reduce_lines((lines.square() * kept).sum(1), "sum")
    size = layout.reduce_lines(kept.sum(1), "sum").clamp(min=1)
    widest = layout.reduce_lines((lines.abs() * kept).amax(1), "amax")
    scales, errors = [], []
    for factor in (*RANGES, None):
        end = widest if factor is None else torch.minimum(factor * (energy / size).sqrt(), widest)
        step = to_scale(end / 2 ** (top - 1), dtype)
        products, squares = _moments(layout, lines, kept, step, judged)
        scale = to_scale(products.clamp(min=0) / squares.clamp(min=1e-30), dtype)
        scale[:, -1] = step
        scales.append(scale)
        errors.append(energy.unsqueeze(1) - 2 * scale * products + scale.square() * squares)
    best = _relative(torch.stack(errors), energy, judged, precisions).argmin(0)
    found = torch.stack(scales)[best, torch.arange(layout.count, device=best.device)]
    return found[:, [judged.index(bits) for bits in precisions]]


def _relative(errors: Tensor, energy: Tensor, judged: tuple[int, ...], precisions: tuple[int, ...]) -> Tensor:
    """Sum of relative errors of each range and sub-group, `(ranges, groups)`; what rounding hides counts alike."""
    noise = (1e-6 * energy).clamp(min=torch.finfo(errors.dtype).tiny)
    errors = torch.maximum(errors, noise.unsqueeze(1))
    of = dict(zip(judged, errors.unbind(-1)))
    terms = [of[bits] / of[min(bits, ENOUGH)].amin(0) * (BEYOND if bits > ENOUGH else 1) for bits in precisions]
    narrow = [2 * of[bits] > of[lower] for lower, bits in pairwise(precisions) if bits > ENOUGH]
    return torch.stack([*terms, *(TOO_NARROW * one for one in narrow)]).sum(0)


def _moments(
    layout: SubgroupLayout, lines: Tensor, kept: Tensor, step: Tensor, judged: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Sums over each sub-group of weight times level, and of the squared level, `(groups, precisions)` each."""
    top, steps = judged[-1], layout.expand(torch.where(step == 0, torch.ones_like(step), step)).unsqueeze(1)
    size, parts = max(1, CHUNK // max(1, lines.shape[1])), []
    for start in range(0, len(lines), size):
        part, weights = lines[start : start + size], kept[start : start + size]
        codes = (part / steps[start : start + size]).round_().add_(2 ** (top - 1)).clamp_(0, 2**top - 1)
        found = []
        for bits in judged:
            levels = torch.floor(codes / 2 ** (top - bits)).sub_(Nested.zero(bits, top)).mul_(weights)
            found.append(torch.stack([(levels * part).sum(1), levels.square().sum(1)]))
        parts.append(torch.stack(found, dim=2))
    return tuple(layout.reduce_lines(one, "sum") for one in torch.cat(parts, dim=1))
