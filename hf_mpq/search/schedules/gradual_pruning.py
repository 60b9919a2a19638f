"""Masks that close little by little while the weights learn to do without."""

from collections.abc import Iterator

import torch
from torch import nn

from ...nn.walk import matrices
from ...weights import WeightProgram
from ..strategies.base import Progress
from .base import SCHEDULES, Schedule


@SCHEDULES.register("gradual-pruning")
class GradualPruning(Schedule):
    """Every mask of the model closes along a cubic ramp (Zhu and Gupta, 2017): of what it will hold at zero, the share
    `1 - (1 - t)^3` is chosen anew every few steps, with `t` from 0 at `begin` to 1 at `end`.

    Weights that are held at zero get no gradient of the loss, but momentum still moves them: one that grows is free
    again at the next choice. After `end` the masks stay as they are.

    Args:
        begin, end: of the ramp, shares of the stage's steps.
        every: steps between two choices.

    Raises:
        ValueError: for a ramp that is none.
    """

    def __init__(self, begin: float = 0.0, end: float = 0.7, every: int = 10):
        if not 0 <= begin < end <= 1:
            raise ValueError(
                f"a ramp goes from begin to end, shares of the stage with 0 <= begin < end <= 1; got {begin} and {end}"
            )
        if every < 1:
            raise ValueError(f"masks are chosen anew every so many steps, at least 1; got {every}")
        self.begin, self.end, self.every = begin, end, every

    def prepare(self, model: nn.Module) -> None:
        """Open every mask; raises ValueError when there is none."""
        if not any(True for _ in _masked(model)):
            raise ValueError("gradual-pruning needs masks: quantize with MPQConfig(mask='element') or mask='n:m'")
        self._choose(model, 0.0)

    def before_step(self, model: nn.Module, progress: Progress) -> None:
        first, last = round(self.begin * progress.steps), max(round(self.end * progress.steps), 1)
        due = progress.step == last or (progress.step - first) % self.every == 0
        if first <= progress.step <= last and due:
            self._choose(model, self.share_at(progress))

    def share_at(self, progress: Progress) -> float:
        """Share of the pruning that is done before a step, 0 to 1."""
        first, last = round(self.begin * progress.steps), max(round(self.end * progress.steps), 1)
        time = min(max((progress.step - first) / max(last - first, 1), 0.0), 1.0)
        return 1 - (1 - time) ** 3

    def finish(self, model: nn.Module) -> None:
        for _, layer in _masked(model):
            if layer.mask.pruned_share() < 1:
                raise ValueError("the stage ended before its masks were closed: give it more steps, or a smaller end")

    @torch.no_grad()
    def metrics(self, model: nn.Module) -> dict[str, float]:
        """`density`: share of the masked weights that are free."""
        kept = [(float(layer.mask.keep.sum()), layer.mask.keep.numel()) for _, layer in _masked(model)]
        return {"density": sum(free for free, _ in kept) / max(sum(count for _, count in kept), 1)}

    @torch.no_grad()
    def _choose(self, model: nn.Module, share: float) -> None:
        for weight, program in _masked(model):
            program.revisit_mask(weight.float(), share)


def _masked(model: nn.Module) -> Iterator[tuple[nn.Parameter, WeightProgram]]:
    """Weight and program of every matrix whose mask may be chosen anew."""
    for _, layer in matrices(model):
        if layer.program.mask is not None and not layer.program.mask.locked:
            yield layer.weight, layer.program
