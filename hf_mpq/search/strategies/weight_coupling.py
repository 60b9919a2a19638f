"""One-shot weight coupling: one set of weights at many precisions, then a search that trains nothing."""

from collections.abc import Mapping
from math import inf

from torch import Tensor, nn

from ...core import Assignment, BudgetError, PrecisionSpace, Written, name_and_options
from ...cost import Limits
from ..allocators import ALLOCATORS
from ..judge import Judge
from .base import DRAWN, HIGHEST, STRATEGIES, Pass, Progress, SearchStrategy
from .gate_metrics import gate_metrics
from .open_gates import open_gates
from .projection import check_limits, likeliest


@STRATEGIES.register("weight-coupling")
class WeightCoupling(SearchStrategy):
    """The super-net of RFQuant (Tang et al., CVPR 2024; equations as in the authors' code).

    A step has `1 + paths` passes: every matrix at its highest precision, taught by the float model, then paths that are
    drawn evenly from what the gates allow, taught by the detached signals of the first pass. Their gradients add, and
    all passes have all terms of the stage. At the end an allocator decides by the damage that assignments do on the
    super-net as it is: nothing is trained again, and other budgets get their assignments from the same weights.

    Precisions that the gates do not allow at the end (see the schedule `"turbulence"`) are chosen only where nothing
    else meets the budget. Without a budget, or without a judge, the precisions are the highest that fit.

    Args:
        space, limits: as of `SearchStrategy`.
        paths: K, how many paths are drawn in a step.
        allocator: part, what decides; it is given the gates' reluctances as scores, infinite where they do not allow.

    Raises:
        ValueError: for no path at all, or an unknown allocator.
    """

    keeps_limit = True

    def __init__(
        self,
        space: PrecisionSpace,
        limits: Limits,
        paths: int = 3,
        allocator: Written = "bidirectional",
    ):
        super().__init__(space, limits)
        if paths < 1:
            raise ValueError(f"paths is how many are drawn in a step, at least 1; got {paths}")
        name, options = name_and_options("allocator", allocator)
        self.paths, self.allocator = paths, ALLOCATORS.make(name, options=options)

    def prepare(self, model: nn.Module, scores: Mapping[str, Tensor] | None = None) -> None:
        """Raises ValueError without open gates, and BudgetError where nothing keeps the limits."""
        open_gates(self.space, model)
        check_limits(self.space, self.limits)

    def passes(self, progress: Progress) -> tuple[Pass, ...]:
        """The maximum path, then drawn ones that it teaches."""
        drawn = (Pass(f"path {number}", path=DRAWN, teacher="maximum") for number in range(1, self.paths + 1))
        return Pass("maximum", path=HIGHEST), *drawn

    def derive(self, model: nn.Module, judge: Judge | None = None) -> tuple[nn.Module, Assignment]:
        gates = open_gates(self.space, model)
        tables = {name: gate.reluctance() for name, gate in gates.items()}
        if judge is None or self.limits[0].amount is None:
            return model, likeliest(self.space, tables, self.limits)
        allowed = {name: tables[name].masked_fill(~gate.allowed.cpu(), inf) for name, gate in gates.items()}
        try:
            return model, self._decided(allowed, judge)
        except BudgetError:
            return model, self._decided(tables, judge)

    def metrics(self, model: nn.Module) -> dict[str, float]:
        """See `gate_metrics`; what is decided is the maximum path here."""
        return gate_metrics(self.space, self.limits, model)

    def _decided(self, scores: Mapping[str, Tensor], judge: Judge) -> Assignment:
        return self.allocator.choose(self.space, self.limits, scores, judge.damage, judge.progress)
