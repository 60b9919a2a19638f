"""What logs show of open gates."""

from collections import Counter, defaultdict
from collections.abc import Mapping

import torch

from ...core import Assignment, PrecisionSpace, Usage
from ...cost import CostModel


@torch.no_grad()
def gate_metrics(
    space: PrecisionSpace, cost: CostModel, usages: Mapping[str, Usage], assignment: Assignment
) -> dict[str, float]:
    """The state of a search.

    - `expected_cost`: of the mixture, in the unit of `cost`;
    - `cost`: of `assignment`, exactly;
    - `uncertainty`: mean over open sub-groups and inputs of one minus the largest probability: 0 when all is decided;
    - `bits/<b>`: share of the open weights that have b bits in `assignment`; these add up to 1;
    - `inputs/<b>`: share of the open inputs that have b bits in it.
    """
    return {
        "expected_cost": float(cost.expected(usages)),
        "cost": cost.of(assignment),
        "uncertainty": _uncertainty(space, usages),
        **_shares(space, assignment),
        **_input_shares(space, assignment),
    }


def _uncertainty(space: PrecisionSpace, usages: Mapping[str, Usage]) -> float:
    doubts = [1 - usages[name].probabilities.amax(1) for name, spec in space.weights.items() if spec.bits is None]
    inputs = [usage.activation_probabilities for usage in usages.values()]
    doubts += [1 - chances.amax().reshape(1) for chances in inputs if chances is not None]
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
