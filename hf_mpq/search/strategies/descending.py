"""SDQ's search: from the highest precision down, until the budget is met."""

from math import log

import torch
from torch import nn

from ...core import Assignment, PrecisionSpace
from ...cost import Limits
from ...nn.walk import usages
from ..judge import Judge
from .base import STRATEGIES, Progress
from .joint import Joint
from .open_gates import open_gates
from .projection import filled


@STRATEGIES.register("descending")
class Descending(Joint):
    """Weights and gates learn together from every batch, and each gate that walks down its candidates, such as
    `gate="neighbour"`, leaves its highest one for good when that is used less often than a threshold (SDQ; Huang et
    al., ICML 2022). Other gates are searched without that.

    Ours, for the paper says neither when a layer goes down nor what ends the descent: the threshold is 0.2, well below
    1/2, so that noise alone takes no gate down; with a budget the penalty is `"geometric"`, so that those go down first
    whose loss per byte is least, and none goes down while the expected cost is within the budget; the result is
    projected into it, and what it leaves goes to those that are drawn higher most often. The gates take Adam's
    normalised steps, whose memory of sizes (betas 0.9 and 0.99) is short enough that the first gradients of a new pair
    of neighbours make no leaps.

    Args:
        threshold: probability, above 0 and below 1.
        learning_rate: of the gates; None takes what leads a gate that nothing holds up from the top to the bottom in
            about half of the stage, so that a short one gets there too.
        options: of `WarmGateSearch`.

    Raises:
        ValueError: for a threshold outside it.
    """

    defaults = {  # noqa: RUF012
        "start": "top",
        "temperature": 0.5,
        "optimizer": "adam",
        "learning_rate": 0.1,
        "optimizer_options": {"betas": (0.9, 0.99)},
        "penalty": "geometric",
        "decision": "projection",
    }

    def __init__(
        self,
        space: PrecisionSpace,
        limits: Limits,
        threshold: float = 0.2,
        learning_rate: float | None = None,
        **options,
    ):
        super().__init__(space, limits, learning_rate=learning_rate, **options)
        if not 0 < threshold < 1:
            raise ValueError(f"the threshold is a probability, above 0 and below 1; got {threshold}")
        self.threshold, self._paced = threshold, learning_rate is None

    def gate_rate(self, steps: int) -> float | None:
        """Twice the way from the top to the bottom over the steps in which gates move: Adam's steps have the size of
        the rate while gradients agree."""
        if not self._paced or self.optimizer != "adam":
            return None
        most = max((len(one.candidates) for one in self.space.open_choices.values()), default=1)
        pair = log(9) - log(self.threshold / (1 - self.threshold))  # in logits, from where one starts to where it ends
        return 2 * max(most - 1, 1) * pair / max(steps * (1 - self.warmup), 1)

    def schedule(self, model: nn.Module, progress: Progress) -> None:
        """Set temperatures and draw, then let gates go down, one after the other while the budget is not met."""
        super().schedule(model, progress)
        above = self._above(model)
        for gate in open_gates(self.space, model).values():
            if above and gate.descend(self.threshold):
                above = self._above(model)

    def derive(self, model: nn.Module, judge: Judge | None = None) -> tuple[nn.Module, Assignment]:
        """The likeliest assignment, with what it leaves of a budget used for those that are drawn higher most often."""
        gates = open_gates(self.space, model)
        model, found = super().derive(model, judge)
        if self.decision != "projection":
            return model, found
        drawn = {name: gate.usage().probabilities for name, gate in gates.items()}
        known = {name: one for name, one in drawn.items() if one is not None}
        return model, filled(self.space, found, known, self.limits)

    @torch.no_grad()
    def _above(self, model: nn.Module) -> bool:
        """Whether more is expected to be used than some budget allows; always without one."""
        used = usages(model)
        return any(limit.amount is None or float(limit.cost.expected(used)) > limit.amount for limit in self.limits)
