"""What logs show of open gates."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import torch
from torch import nn

from ...core import Assignment, PrecisionSpace
from ...cost import Limits
from ...nn.walk import gates, reluctances, usages
from .projection import likeliest


@torch.no_grad()
def gate_metrics(space: PrecisionSpace, limits: Limits, model: nn.Module) -> dict[str, float]:
    """The state of a search, with the likeliest assignment as what it would decide:

    - `expected_cost`: of the mixture, in the unit of the main limit's cost;
    - `cost`: of the assignment, exactly;
    - `expected_cost/<what>` and `cost/<what>`, such as `cost/activations`: the same in each of several limits;
    - `uncertainty`: mean over open sub-groups and inputs of what their gates call it: 0 when all is decided;
    - `bits/<b>`: share of the open weights that have b bits in the assignment; these add up to 1;
    - `inputs/<b>`: share of the open inputs that have b bits in it.
    """
    used, assignment = usages(model), likeliest(space, reluctances(model))
    return {
        **by_limit("expected_cost", limits, [float(limit.cost.expected(used)) for limit in limits]),
        **by_limit("cost", limits, [limit.cost.of(assignment) for limit in limits]),
        "uncertainty": _uncertainty(space, model),
        **_shares(space, assignment),
        **_input_shares(space, assignment),
    }


def by_limit(name: str, limits: Limits, values: Sequence[float]) -> dict[str, float]:
    """A value in each limit: that of the main one under its name, and of several all with what they limit."""
    several = {f"{name}/{limit.cost.what}": value for limit, value in zip(limits, values)} if len(limits) > 1 else {}
    return {name: values[0], **several}


def _uncertainty(space: PrecisionSpace, model: nn.Module) -> float:
    found = gates(model)
    searched = [name for name, spec in space.weights.items() if spec.bits is None]
    searched += [name for name in found if name not in space.weights]  # open inputs
    doubts = [found[name].uncertainty() for name in searched if name in found]
    return float(torch.cat(doubts).mean()) if doubts else 0.0


def _shares(space: PrecisionSpace, assignment: Assignment) -> dict[str, float]:
    weights: dict[int, int] = defaultdict(int)
    for name, spec in space.weights.items():
        if spec.bits is None:
            for bits, size in zip(assignment.matrices[name].bits, spec.layout.numel):
                weights[bits] += size
    total = max(sum(weights.values()), 1)
    return {f"bits/{bits}": size / total for bits, size in sorted(weights.items())}


def _input_shares(space: PrecisionSpace, assignment: Assignment) -> dict[str, float]:
    searched = [name for name, spec in space.weights.items() if spec.activation and spec.activation.candidates]
    counts = Counter(assignment.activation_bits[name] for name in searched)
    return {f"inputs/{bits}": count / len(searched) for bits, count in sorted(counts.items())}
