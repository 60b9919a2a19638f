"""Neural channel expansion's search: widths at one precision, and wider ones where the widest is wanted."""

from math import ceil
from typing import ClassVar

import torch
from torch import nn

from ...core import Assignment, PrecisionSpace
from ...cost import Limits
from ...nn.walk import matrices, prefixes
from ..allocators.base import Scores
from ..judge import Judge
from .base import GATE_PARAMETERS, STRATEGIES, Pass, Progress
from .bilevel import WEIGHT_PASS
from .gate_search import WarmGateSearch
from .open_gates import open_gates
from .projection import bounded, likeliest_of

SEARCH_PASS = Pass("gates", frozenset({GATE_PARAMETERS}), data="search", penalised=True)


@STRATEGIES.register("expansion")
class ChannelExpansion(WarmGateSearch):
    """Neural channel expansion (Park et al., 2022) on the search of TAS (Dong and Yang, 2019): in every step weights
    learn from its batch and gates from one of the search slice, with a penalty for each limit. Now and then a gate
    whose widest candidate is preferred beyond a threshold gets a wider one, and the penalties take room from others.

    It is for `gate="width"`; other gates are searched in the same way, and nothing is opened for them. The result is
    the likeliest width of each matrix within the limits, found exactly.

    The paper's threshold, its steps and how often it looks are not public: here a width is opened where the widest is
    half as likely again as if all were alike, ten times in a stage. `gate_options` of the width have the rest: how fine
    widths are, and `drawn=2`, which mixes two of them at a time as TAS does.

    Args:
        threshold: how many times as likely as if all were alike; infinite opens nothing.
        every: steps between two looks, or below 1 a share of the stage.
        learning_rate: of the gates, by Adam; None takes what moves a logit by `REACH` in the stage, so that a short one
            gets there too. TAS has 1e-3 over 600 epochs.
        options: of `WarmGateSearch`.

    Raises:
        ValueError: for a threshold or an interval that is not above 0.
    """

    split: ClassVar[str | None] = "steps"
    REACH = 8.0
    defaults = {  # noqa: RUF012
        "start": "zeros",
        "temperature": (1.0, 0.2),
        "optimizer": "adam",
        "learning_rate": 0.02,
        "optimizer_options": {"betas": (0.5, 0.999), "weight_decay": 1e-3},
        "penalty": "log-band",
        "decision": "projection",
    }

    def __init__(
        self,
        space: PrecisionSpace,
        limits: Limits,
        threshold: float = 1.5,
        every: float = 0.1,
        learning_rate: float | None = None,
        **options,
    ):
        super().__init__(space, limits, learning_rate=learning_rate, **options)
        if not threshold > 0 or not every > 0:
            raise ValueError(f"threshold and every are above 0, got {threshold} and {every}")
        self.threshold, self.every, self._paced = threshold, every, learning_rate is None

    def prepare(self, model: nn.Module, scores: Scores | None = None) -> None:
        """Raises BudgetError also where the narrowest widths do not keep the limits."""
        super().prepare(model, scores)
        if prefixes(model):
            self._decided(model)

    def passes(self, progress: Progress) -> tuple[Pass, ...]:
        """A pass for the weights, and after the warm-up one for the gates on a batch of the search slice."""
        return (WEIGHT_PASS,) if progress.step < self.idle(progress) else (WEIGHT_PASS, SEARCH_PASS)

    def gate_rate(self, steps: int) -> float | None:
        if not self._paced or self.optimizer != "adam":
            return None
        return self.REACH / max(steps * (1 - self.warmup), 1)

    def schedule(self, model: nn.Module, progress: Progress) -> None:
        """Open wider candidates where it is time, then set temperatures and draw."""
        gates = open_gates(self.space, model)
        if self._looks(progress):
            for gate in gates.values():
                gate.expand(self.threshold)
        super().schedule(model, progress)

    def derive(self, model: nn.Module, judge: Judge | None = None) -> tuple[nn.Module, Assignment]:
        if not prefixes(model):
            return super().derive(model, judge)
        return model, self._decided(model)

    @torch.no_grad()
    def metrics(self, model: nn.Module) -> dict[str, float]:
        """Also the mean expected width and the widest open one, as shares of the matrices' rows."""
        found = super().metrics(model)
        wide = [layer.program.gate for _, layer in matrices(model) if layer.program.gate.sets_width]
        if wide and wide[0].searching:
            found["width"] = float(torch.stack([gate.usage().keep.mean() for gate in wide]).mean())
            found["widest"] = max(float(gate.highest_path().float().mean()) for gate in wide)
        return found

    def _looks(self, progress: Progress) -> bool:
        """Whether a step is one before which wider candidates are opened: at even intervals once the gates have moved
        for one of them."""
        moved = progress.step - self.idle(progress)
        steps = progress.steps - self.idle(progress)
        interval = max(ceil(self.every if self.every >= 1 else self.every * steps), 1)
        return moved > 0 and moved % interval == 0

    def _decided(self, model: nn.Module) -> Assignment:
        limits = bounded(self.limits) if self.decision == "projection" else ()
        return likeliest_of(self.space, model, limits)
