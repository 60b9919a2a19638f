"""Weights that are put nearer to their ternary values, before they are rounded."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ...nn.matrix import QuantizedMatrix
from ...nn.walk import matrices
from ...weights import WeightProgram
from ..strategies.base import Progress
from .base import SCHEDULES, Schedule


@SCHEDULES.register("reinitialise")
class Reinitialise(Schedule):
    """Re-initialisation of hyperspherical quantization (Liu et al., 2022; reconstructed, for the paper prints no rule):
    in a few rounds every weight that a mask keeps becomes `(1 - eta) w + eta sign(w) m`, m the mean `|w|` of those that
    are kept in its sub-group.

    The angle between a sub-group and its ternary value shrinks, and with it the bias of the straight-through gradient;
    with `eta=1` it is zero. What a mask holds at zero stays as it is, and may come back. Name it after the schedule
    that chooses the masks.

    Args:
        eta: how far, above 0 to 1.
        begin, end: first and last round, shares of the stage's steps.
        rounds: evenly spaced.

    Raises:
        ValueError: for rounds that are none.
    """

    def __init__(self, eta: float = 0.5, begin: float = 0.1, end: float = 0.7, rounds: int = 4):
        if not 0 < eta <= 1:
            raise ValueError(f"eta is how far weights go to their ternary values, above 0 to 1; got {eta}")
        if not 0 <= begin <= end <= 1 or rounds < 1:
            raise ValueError(
                "rounds go from begin to end, shares of the stage with 0 <= begin <= end <= 1, and there is at least "
                f"one; got {begin}, {end} and {rounds}"
            )
        self.eta, self.begin, self.end, self.rounds = eta, begin, end, rounds

    def prepare(self, model: nn.Module) -> None:
        """Raises ValueError when there is no mask over weights that are their own parameter."""
        if not any(True for _ in _masked(model)):
            raise ValueError("reinitialise needs masks: quantize with MPQConfig(mask='element') or mask='n:m'")

    @torch.no_grad()
    def before_step(self, model: nn.Module, progress: Progress) -> None:
        if progress.step in self.steps(progress.steps):
            for _, layer in _masked(model):
                layer.weight.copy_(towards_signs(layer.weight.float(), layer.program, self.eta))

    def steps(self, steps: int) -> list[int]:
        """Before which steps of a stage a round comes."""
        first, last = self.begin * steps, min(round(self.end * steps), steps - 1)
        apart = (last - first) / max(self.rounds - 1, 1)
        return sorted({max(round(last - apart * number), 0) for number in range(self.rounds)})

    @torch.no_grad()
    def metrics(self, model: nn.Module) -> dict[str, float]:
        """`ternary_cosine`: between sub-groups and their ternary values, the mean over all that keep something."""
        found = torch.cat([ternary_cosines(layer.weight.float(), layer.program) for _, layer in _masked(model)])
        return {"ternary_cosine": float(found[found > 0].mean())}


def towards_signs(weight: Tensor, program: WeightProgram, eta: float) -> Tensor:
    """Weights `(out, in)` with what is kept of them so much nearer to the signs times their mean size."""
    kept, layout = _kept(weight, program), program.layout
    mean = layout.reduce(weight.abs() * kept, "sum") / layout.reduce(kept.to(weight.dtype), "sum").clamp(min=1)
    lines = layout.expand(mean)
    mean = lines.unsqueeze(1) if layout.axis == 0 else lines.unsqueeze(0)
    return torch.where(kept, torch.lerp(weight, weight.sign() * mean, eta), weight)


def ternary_cosines(weight: Tensor, program: WeightProgram) -> Tensor:
    """Cosine of each sub-group's kept weights and their signs, `(groups,)`; 0 where nothing is kept."""
    kept, layout = _kept(weight, program), program.layout
    sizes = weight.abs() * kept
    lengths = layout.reduce(sizes.square(), "sum").sqrt() * layout.reduce(kept.to(weight.dtype), "sum").sqrt()
    return layout.reduce(sizes, "sum") / lengths.clamp(min=torch.finfo(weight.dtype).tiny)


def _kept(weight: Tensor, program: WeightProgram) -> Tensor:
    return program.keep().expand_as(weight)


def _masked(model: nn.Module) -> Iterator[tuple[str, QuantizedMatrix]]:
    """Matrices with a mask over a weight that is its own parameter."""
    for name, layer in matrices(model):
        if layer.program.mask is not None and not layer.program.source.owns_weight:
            yield name, layer
