"""Nested codes within a budget: one precision for each matrix, chosen without training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..core import Budget, BudgetError, MatrixStorage, PrecisionSpace, SubgroupLayout, WeightSpec, budgets_of
from ..cost import AverageBits, CostModel, Limit, StoredSize
from ..cost.exact import matrices_with
from ..search.allocators import allocate
from ..search.allocators.unmet import unmet
from .config import MPQConfig

_KINDS, _SCOPES = ("bytes", "bits", "ratio"), ("model", "encoder")


@dataclass(frozen=True)
class ModelSizes:
    """What budgets are measured against.

    Attributes:
        stored: scope to bytes of all tensors that are stored, with every plane.
        floats: scope to bytes of the float32 file.
        code_bits: of all encoder matrices, nested or not.
        weights: number of weights in them.
        encoder: names of the encoder's matrices.
        norms: scope to the highest precision that is used, to bytes of normalisation parameters of higher ones, which
            an extract leaves out.
    """

    stored: Mapping[str, float]
    floats: Mapping[str, float]
    code_bits: float
    weights: int
    encoder: frozenset[str]
    norms: Mapping[str, Mapping[int, float]]


def check_serves_one(config: MPQConfig, searching: bool) -> None:
    """Raise ValueError for a budget of a model of which nothing is open, and which serves all its precisions."""
    if config.nested and not searching:
        raise ValueError(
            "a nested model serves every one of its precisions: make it without a budget, and call "
            "hf_mpq.set_precision(model, budget) on what comes, or from_pretrained(folder, bits=budget)"
        )


def precisions_within(
    budget: Budget | str | float,
    nested: Mapping[str, MatrixStorage],
    sizes: ModelSizes,
    changes: Callable[[str], Sequence[float]],
) -> dict[str, int]:
    """The precisions that change the weights least, in squares, among those within a budget of what an extract of them
    stores; by the Lagrangian allocator, whose answer is the same each time.

    Args:
        budget: in bytes, as a share of the float32 file, or in mean code bits per encoder weight; several, as in
            `"4MB + 3bits"`, are all met.
        nested: the matrices to choose for.
        sizes: of the model.
        changes: of a matrix, the squared change at each of its served precisions, ascending, from the highest one.

    Raises:
        BudgetError: for a budget of another kind, or when the lowest precisions are too much.
    """
    space = PrecisionSpace({name: _spec(stored, name in sizes.encoder) for name, stored in nested.items()})
    limits = [_limit(space, one, sizes) for one in budgets_of(budget)]
    for limit in limits:
        limit.check(nested)
    highest = {name: stored.served[-1] for name, stored in nested.items()}
    if all(limit.of(highest) <= limit.amount for limit in limits):
        return highest
    scores = {name: np.maximum.accumulate(np.array([changes(name)])[:, ::-1], axis=1)[:, ::-1] for name in nested}
    found, refused = [], None
    for top in _tops(nested):  # where fewer precisions are used, normalisation parameters are left out
        try:
            found.append(_chosen(space, limits, scores, top))
        except BudgetError as error:
            refused = error
    if not found:
        raise refused
    places = {name: spec.candidates.index for name, spec in space.weights.items()}
    return min(found, key=lambda chosen: sum(scores[name][0, places[name](bits)] for name, bits in chosen.items()))


def _tops(nested: Mapping[str, MatrixStorage]) -> list[int]:
    """What the highest precision that is used may be, descending."""
    least = max(stored.served[0] for stored in nested.values())
    return sorted({bits for stored in nested.values() for bits in stored.served if bits >= least}, reverse=True)


def _chosen(
    space: PrecisionSpace, limits: Sequence["_Limit"], scores: Mapping[str, np.ndarray], top: int
) -> dict[str, int]:
    """The precisions that change the weights least, of those up to `top`."""
    above = {name: np.array(spec.candidates) > top for name, spec in space.weights.items()}
    allowed = {name: np.where(above[name], np.inf, table) for name, table in scores.items()}
    found = allocate.choose(space, tuple(Limit(limit.cost, limit.left(top)) for limit in limits), allowed)
    return {name: found.matrices[name].bits[0] for name in space.weights}


def _limit(space: PrecisionSpace, budget: Budget, sizes: ModelSizes) -> "_Limit":
    if budget.kind not in _KINDS or budget.scope not in _SCOPES:
        raise BudgetError(
            f"precisions of nested codes are chosen by the size of the model or of its encoder, which {str(budget)!r} "
            "does not limit: write for example '20MB', '3bits' or 'encoder:0.1x'"
        )
    return (_InBits if budget.kind == "bits" else _InBytes)(space, budget, sizes)


def _spec(stored: MatrixStorage, of_encoder: bool) -> WeightSpec:
    """A matrix with one sub-group and the same codes and scales."""
    (groups,), (lines,) = stored.groups.values(), stored.lines.values()
    count = lines * stored.length
    kept = sum(stored.kept.values())
    masked = {"mask": "element", "mask_options": {"density": max(kept - 0.5, 0) / count}} if kept and count else {}
    return WeightSpec(
        SubgroupLayout((lines, stored.length)),
        stored.served,
        role="encoder" if of_encoder else "projection",
        bias=False,
        floats={bits: groups * (number + 1) for number, bits in enumerate(stored.served)},
        scale_dtype=stored.scale_dtype,
        **masked,
    )


class _Limit:
    """A budget, and what of it is left for the codes and scales that are chosen.

    Attributes:
        cost: of the nested matrices alone.
        amount: of the budget.
    """

    cost: CostModel
    amount: float
    scale, others = 1.0, 0.0
    norms: Mapping[int, float] = {}

    def left(self, top: int) -> float:
        """What the cost must not exceed where no precision above `top` is used."""
        return (self.amount - self.others + self.norms.get(top, 0.0)) / self.scale

    def of(self, chosen: Mapping[str, int]) -> float:
        """What the whole model costs at some precisions."""
        bits = {name: np.array([one]) for name, one in chosen.items()}
        return self.cost.of_matrices(matrices_with(self.cost.space, bits)) * self.scale + self.others

    def check(self, nested: Mapping[str, MatrixStorage]) -> None:
        """Raise BudgetError when the lowest precisions are too much."""
        least = self.of({name: stored.served[0] for name, stored in nested.items()})
        least -= self.norms.get(_tops(nested)[-1], 0.0)
        if least > self.amount:
            raise unmet(Limit(self.cost, self.amount), least, " with the precisions that are stored")


class _InBytes(_Limit):
    def __init__(self, space: PrecisionSpace, budget: Budget, sizes: ModelSizes):
        self.cost = StoredSize(space, budget.scope)
        self.amount = budget.amount * (sizes.floats[budget.scope] if budget.kind == "ratio" else 1.0)
        self.others = sizes.stored[budget.scope] - self.of(_highest(space))
        self.norms = sizes.norms[budget.scope]


class _InBits(_Limit):
    def __init__(self, space: PrecisionSpace, budget: Budget, sizes: ModelSizes):
        self.cost, self.amount = AverageBits(space), budget.amount
        self.scale = self.cost.weights / max(sizes.weights, 1)
        self.others = sizes.code_bits / max(sizes.weights, 1) - self.of(_highest(space))


def _highest(space: PrecisionSpace) -> dict[str, int]:
    return {name: spec.candidates[-1] for name, spec in space.weights.items()}
