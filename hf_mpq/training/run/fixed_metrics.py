"""What logs show of a stage whose precisions are decided."""

from collections import defaultdict

from ...core import Assignment, PrecisionSpace
from ...cost import Limits
from ...search.strategies.gate_metrics import by_limit


def fixed_metrics(space: PrecisionSpace, limits: Limits, assignment: Assignment) -> dict[str, float]:
    """As a search logs it of its assignment.

    - `cost`: in the unit of the main limit's cost; of several limits `cost/<what>` too;
    - `bits/<b>`: share of the weights that have b bits: of those that the config leaves open, or of all encoder weights
      where it leaves none open; these add up to 1.
    """
    chosen = [name for name, spec in space.weights.items() if spec.bits is None] or [
        name for name, spec in space.weights.items() if spec.role == "encoder"
    ]
    weights: dict[int, int] = defaultdict(int)
    for name in chosen:
        for bits, size in zip(assignment.matrices[name].bits, space.weights[name].layout.numel):
            weights[bits] += size
    total = max(sum(weights.values()), 1)
    costs = by_limit("cost", limits, [limit.cost.of(assignment) for limit in limits])
    return {**costs, **{f"bits/{bits}": size / total for bits, size in sorted(weights.items())}}
