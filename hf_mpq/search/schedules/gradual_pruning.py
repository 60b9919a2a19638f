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
    again at the next choice. After `end` as many are held, and until `until` which ones is still chosen; then the masks
    stay as they are.

    Args:
        begin, end: of the ramp, shares of the stage's steps.
        every: steps between two choices; below 1 a share of the stage's steps.
        until: of the choices, a share of the stage's steps; None ends them with the ramp.
        rewind: the learning rate, after its warm-up, falls on a line to zero from the end of the ramp on; during the
            ramp it stays at about the largest: it begins to fall anew at each choice (Zafrir et al., 2021).

    Raises:
        ValueError: for a ramp that is none.
    """

    def __init__(
        self,
        begin: float = 0.0,
        end: float = 0.7,
        every: float = 10,
        until: float | None = None,
        rewind: bool = False,
    ):
        if not 0 <= begin < end <= 1:
            raise ValueError(
                f"a ramp goes from begin to end, shares of the stage with 0 <= begin < end <= 1; got {begin} and {end}"
            )
        if every <= 0 or (every > 1 and every != int(every)):
            raise ValueError(f"masks are chosen anew every so many steps, at least 1, or a share; got {every}")
        if until is not None and not end <= until <= 1:
            raise ValueError(f"masks are chosen anew until a share of the stage from end={end} to 1; got {until}")
        if rewind and end >= 1:
            raise ValueError("rewind needs an end below 1: after it the learning rate falls to zero")
        self.begin, self.end, self.every, self.until, self.rewind = begin, end, every, until or end, rewind

    def prepare(self, model: nn.Module) -> None:
        """Open every mask; raises ValueError when there is none."""
        if not any(True for _ in _masked(model)):
            raise ValueError("gradual-pruning needs masks: quantize with MPQConfig(mask='element') or mask='n:m'")
        self._choose(model, 0.0)

    def before_step(self, model: nn.Module, progress: Progress) -> None:
        first, last = self._ramp(progress.steps)
        due = progress.step == last or (progress.step - first) % self._apart(progress.steps) == 0
        if due and first <= progress.step <= max(last, round(self.until * progress.steps)):
            self._choose(model, self.share_at(progress))

    def share_at(self, progress: Progress) -> float:
        """Share of the pruning that is done before a step, 0 to 1."""
        first, last = self._ramp(progress.steps)
        time = min(max((progress.step - first) / max(last - first, 1), 0.0), 1.0)
        return 1 - (1 - time) ** 3

    def rate(self, step: int, steps: int, warmup: int) -> float | None:
        """During the ramp `(N' - t + r floor((t - first) / r)) / (N' - warmup)` with `N'` the steps outside of it and
        `r` the steps between two choices; otherwise a line to zero over `N'`."""
        if not self.rewind:
            return None
        first, last = self._ramp(steps)
        outside, apart = steps - (last - first), self._apart(steps)
        if step < warmup:
            return step / warmup
        if first <= step < last:
            left = outside - step + apart * ((step - first) // apart)
        else:
            left = steps - step - (last - first if step < first else 0)
        return max(left / max(outside - warmup, 1), 0.0)

    def _ramp(self, steps: int) -> tuple[int, int]:
        """First and last step of the ramp."""
        return round(self.begin * steps), max(round(self.end * steps), 1)

    def _apart(self, steps: int) -> int:
        """Steps between two choices."""
        return int(self.every) if self.every >= 1 else max(round(self.every * steps), 1)

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
