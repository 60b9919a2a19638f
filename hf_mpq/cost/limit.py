"""What a budget means: the cost model that measures it, and the number that it must not exceed."""

from ..core import Budget, BudgetError, PrecisionSpace
from .base import COSTS, CostModel
from .latency import Latency
from .latency_table import LatencyTable
from .paper import AverageBits, PaperSize
from .size import StoredSize, float_bytes


def measure(cost: CostModel, budget: Budget | str | float) -> tuple[CostModel, float]:
    """The cost model that measures `budget`, and the budget in its unit.

    A byte budget is measured by `cost` in the budget's scope, a share is one of the float32 bytes of that scope, and a
    budget in bits is always measured by `AverageBits`. A plain number is in the unit of `cost`.

    Raises:
        BudgetError: when `cost` cannot measure it.
    """
    if isinstance(budget, (int, float)):
        return cost, float(budget)
    parsed = Budget.parse(budget)
    if parsed.kind in ("latency", "energy"):
        return _in_unit(cost, parsed)
    if parsed.kind == "bits":
        return AverageBits(cost.space), parsed.amount
    return _size(cost, parsed)


def budget_cost(
    space: PrecisionSpace, budget: Budget | str | None, latencies: LatencyTable | None = None
) -> tuple[CostModel, float | None]:
    """The cost model that a budget is measured by where none is named, and the number that it must not exceed.

    Args:
        space: what may be chosen.
        budget: a `Budget` or its text; None for no limit.
        latencies: what a budget in ms is measured by; None measures this machine, once.

    Raises:
        BudgetError: for a budget in ms of a model of an unknown family, or where nothing that saves time can be pruned.
    """
    if budget is None:
        return COSTS["size"](space), None
    parsed = Budget.parse(budget)
    if parsed.kind == "latency":
        return measure(Latency(space, parsed.batch, parsed.tokens, latencies), parsed)
    return measure(COSTS["energy" if parsed.kind == "energy" else "size"](space), parsed)


def _in_unit(cost: CostModel, budget: Budget) -> tuple[CostModel, float]:
    """Budgets that only a cost model of their own unit can measure."""
    if budget.kind == "latency" and cost.unit != "ms":
        raise BudgetError(
            f"a budget in ms needs a model of this machine's latency, not one in {cost.unit}; give the "
            "cost model 'latency'"
        )
    if isinstance(cost, Latency):
        cost.check(budget.amount)
    if budget.kind == "energy" and cost.unit != "uJ":
        raise BudgetError(
            f"a budget in uJ needs a model of the target's energy, not one in {cost.unit}; give the cost model 'energy'"
        )
    return cost, budget.amount


def _size(cost: CostModel, budget: Budget) -> tuple[CostModel, float]:
    size = float_bytes(cost.space, budget.scope) * budget.amount if budget.kind == "ratio" else budget.amount
    if isinstance(cost, StoredSize):
        return StoredSize(cost.space, budget.scope), size
    if not isinstance(cost, PaperSize):
        raise BudgetError(f"a cost in {cost.unit} cannot measure a budget in bytes; give a plain number of {cost.unit}")
    if budget.scope != "encoder":
        raise BudgetError("the papers' size counts the encoder only; write the budget as 'encoder:<size>'")
    return cost, size / 2**20
