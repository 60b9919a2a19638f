"""Size penalties: what pulls the gates towards the budget."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...core import Registry
from .base import Progress

PENALTIES: Registry[type["Penalty"]] = Registry("penalty")


@dataclass(frozen=True)
class Target:
    """What a penalty is measured by.

    Attributes:
        limit: what the cost must not exceed, in its unit; None without a budget.
        largest: the cost with every open sub-group at its highest precision, in the same unit.
        groups: number of open sub-groups and inputs.
        learning_rate: of the gates.
        normalised: whether the gates' optimizer makes steps of one size whatever the gradients' is, as Adam does.
        alone: whether it is the only limit.
    """

    limit: float | None
    largest: float
    groups: int
    learning_rate: float
    normalised: bool = False
    alone: bool = True


class Penalty(ABC):
    """A function of the expected cost that is added to the loss.

    Args:
        target: what it is measured by.
        strength: lambda; what it multiplies is a pure number, so that it does not depend on the unit of the cost.

    Raises:
        ValueError: without a limit where one is needed, or for a strength that is below zero.
    """

    name: str
    needs_limit = True

    def __init__(self, target: Target, strength: float | None = None):
        if self.needs_limit and target.limit is None:
            raise ValueError(
                f"the penalty {self.name!r} needs a budget, such as MPQConfig(budget='2.5bits'); without "
                "one only 'linear' can be used"
            )
        if strength is not None and strength < 0:
            raise ValueError(f"the strength of a penalty must not be below zero, got {strength}")
        self.target, self.strength = target, strength

    @abstractmethod
    def __call__(self, expected: Tensor, actual: Callable[[], float], progress: Progress) -> Tensor:
        """A differentiable scalar.

        Args:
            expected: expected cost, a differentiable scalar.
            actual: gives the cost of the choice that is made now, without gradient; called only where it is needed.
            progress: where training is.
        """


@PENALTIES.register("log-band")
class LogBand(Penalty):
    """AQ-BERT's piecewise logarithm: `+ log E[C]` while the actual cost is above `(1 + tolerance) V`, nothing inside
    the band, `- log E[C]` below `(1 - tolerance) V` (Zhao et al., IJCAI 2021).

    Here `log(E[C] / V)`, which has the same gradient and no unit. The pull does not weaken near V, so expect the cost
    to swing around the band. Beside other limits nothing is pulled up: what is below its band may be so for the others.

    The paper gives no lambda. A sub-group's logit gets a gradient of about `lambda / (3 groups)`, far below that of the
    loss, so by default lambda is what moves the mean logit by `REACH` over the whole search under plain SGD:
    `3 REACH groups / (learning_rate search_steps)`. Under Adam, whose steps have one size, only its ratio to the loss
    counts, and so large a lambda would leave the loss no say in which sub-groups give way; there it is `BESIDE_LOSS`.

    Args:
        strength: lambda; None for the default above.
        tolerance: half the width of the band, as a share of V.
    """

    name = "log-band"
    REACH = 3.0
    BESIDE_LOSS = 0.3

    def __init__(self, target: Target, strength: float | None = None, tolerance: float = 0.02):
        super().__init__(target, strength)
        if not 0 <= tolerance < 1:
            raise ValueError(f"the tolerance must be at least 0 and below 1, got {tolerance}")
        self.tolerance = tolerance

    def __call__(self, expected: Tensor, actual: Callable[[], float], progress: Progress) -> Tensor:
        spent, limit = actual(), self.target.limit
        if (1 - self.tolerance) * limit <= spent <= (1 + self.tolerance) * limit:
            return 0.0 * expected
        if spent < limit and not self.target.alone:
            return 0.0 * expected
        size = (expected / limit).log() * self._strength(progress)
        return size if spent > limit else -size

    def _strength(self, progress: Progress) -> float:
        if self.strength is not None:
            return self.strength
        if self.target.normalised:
            return self.BESIDE_LOSS
        share = progress.search_steps / max(progress.steps_per_epoch, 1) if progress.search_steps else 1.0
        return 3 * self.REACH * self.target.groups / (self.target.learning_rate * max(progress.steps * share, 1))


class Excess(Penalty):
    """Base of `lambda(t) max(0, E[C] / V - 1)^power`: no pull below the budget.

    Args:
        strength: lambda where `ramp` is 1; None for the penalty's own.
    """

    own_strength: ClassVar[float] = 1.0
    power: ClassVar[int] = 1

    def __call__(self, expected: Tensor, actual: Callable[[], float], progress: Progress) -> Tensor:
        strength = self.own_strength if self.strength is None else self.strength
        return strength * self.ramp(progress) * (expected / self.target.limit - 1).relu() ** self.power

    def ramp(self, progress: Progress) -> float:
        """Lambda as a multiple of the strength."""
        return 1.0


@PENALTIES.register("relative")
class RelativeExcess(Excess):
    """`strength * max(0, E[C] / V - 1)^2`: a gentle pull just above the budget. Ours.

    Args:
        strength: 100 by default: ten percent too much cost as much as a loss of one.
    """

    name, own_strength, power = "relative", 100.0, 2


@PENALTIES.register("hinge")
class Hinge(Excess):
    """DUCCIO's constraint: `lambda(e) max(0, E[C] - V) / V` with `lambda(e)` rising from a hundredth of `strength` to
    all of it over the first half of the search (as in PLiNIO).

    PLiNIO sets lambda from the first loss and the first excess; here the excess is relative to V and the strength is 1
    by default, a typical loss.
    """

    name = "hinge"

    def ramp(self, progress: Progress) -> float:
        return min(0.01 + 0.99 * 2 * progress.fraction, 1.0)


@PENALTIES.register("squared")
class SquaredHinge(Hinge):
    """FDQ's: `lambda(e) max(0, E[C] / V - 1)^2`, with `lambda(e)` as of the hinge (Schaefer et al., 2022, whose factor
    is 1e-4 in kB squared).

    Args:
        strength: 400 by default, which is the paper's at a budget of 2,000 kB; theirs are 1,731 and 2,524 kB.
    """

    name, own_strength, power = "squared", 400.0, 2


@PENALTIES.register("signed-excess")
class SignedExcess(Penalty):
    """CSQ's budget-aware regularisation: `strength (C / V - 1) E[C] / V`, with the cost C of the choice that would be
    made now (Xiao et al., DAC 2023). Above the budget it pulls the expected cost down, below it up: precision grows
    where there is room for it. Beside other limits nothing is pulled up.

    The paper has average bits, and lambda times the sum of the gates of all planes, 1e-3 to 1e-2; here costs are
    relative to V. The strength is 200 by default: a cost one percent off pulls as `"relative"` does one percent above.
    """

    name = "signed-excess"

    def __call__(self, expected: Tensor, actual: Callable[[], float], progress: Progress) -> Tensor:
        excess = actual() / self.target.limit - 1
        if excess < 0 and not self.target.alone:
            excess = 0.0
        return (200.0 if self.strength is None else self.strength) * excess * expected / self.target.limit


@PENALTIES.register("geometric")
class Geometric(Excess):
    """`lambda(t) max(0, E[C] - V) / V` with `lambda(t) = strength 10^(4 t - 2)` growing from a hundredth of `strength`
    to a hundred times, over the search. Ours.

    Being linear above the budget, it sets a price, and a price that rises by the same factor in every step asks for
    what hurts least per byte first, whatever the scale of the loss is. The strength is 1 by default.
    """

    name = "geometric"

    def ramp(self, progress: Progress) -> float:
        return 10 ** (4 * progress.fraction - 2)


@PENALTIES.register("linear")
class Linear(Penalty):
    """`strength * E[C]`, as a share of the largest possible cost; no target: several strengths trace a Pareto front
    (Risso et al., IGSC 2022). The strength is 1 by default."""

    name = "linear"
    needs_limit = False

    def __call__(self, expected: Tensor, actual: Callable[[], float], progress: Progress) -> Tensor:
        return (1.0 if self.strength is None else self.strength) * expected / self.target.largest
