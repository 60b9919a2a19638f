"""What a budget means: the cost model that measures it, and the number that it must not exceed."""

from collections.abc import Iterable
from dataclasses import replace
from math import inf
from typing import NamedTuple

from ..core import Budget, BudgetError, Budgets, PrecisionSpace, budgets_of
from .activations import WORDS, ActivationBytes
from .base import COSTS, CostModel
from .latency import Latency
from .latency_table import LatencyTable
from .paper import AverageBits, PaperSize
from .size import StoredSize, float_bytes


class Limit(NamedTuple):
    """The most that something may cost.

    Attributes:
        cost: the model that measures it.
        amount: in its unit; None for no limit.
    """

    cost: CostModel
    amount: float | None

    @property
    def most(self) -> float:
        """The amount, infinite without a limit."""
        return inf if self.amount is None else self.amount


_OF_A_KIND = {"latency": ("latency", "ms"), "energy": ("energy", "uJ"), "operations": ("bops", "bops")}
"""Kinds of budgets that one cost model measures: its name and its unit."""

Limits = tuple[Limit, ...]
"""What one model keeps together; at least one, the first is the main one."""


def measure(cost: CostModel, budget: Budget | float) -> Limit:
    """The cost model that measures `budget`, and the budget in its unit.

    A byte budget is measured by `cost` in the budget's scope, a share is one of the float32 bytes of that scope, and a
    budget in bits is always measured by `AverageBits`, one of activations by `ActivationBytes`. A plain number is in
    the unit of `cost`.

    Raises:
        BudgetError: when `cost` cannot measure it.
    """
    if isinstance(budget, (int, float)):
        return Limit(cost, float(budget))
    if budget.kind in _OF_A_KIND:
        return _in_unit(cost, budget)
    if budget.kind == "bits":
        return Limit(AverageBits(cost.space), budget.amount)
    return _activations(cost.space, budget) if budget.scope in WORDS.values() else _size(cost, budget)


def limits_of(space: PrecisionSpace, budgets: Budgets = (), latencies: LatencyTable | None = None) -> Limits:
    """What budgets are measured by where no cost model is named: a limit for each; without any, bytes without limit.

    Args:
        space: what may be chosen.
        budgets: that one model meets.
        latencies: what a budget in ms is measured by; None measures this machine, once.

    Raises:
        BudgetError: for a budget in ms of a model of an unknown family, or where nothing that saves time can be pruned.
    """
    if not budgets:
        return (Limit(COSTS["size"](space), None),)
    return tuple(_limit(space, budget, latencies) for budget in budgets)


def carried_over(budgets: Budgets, before: PrecisionSpace, after: PrecisionSpace) -> Budgets:
    """Budgets that were given for one model, for another made of it: shares of the float file become bytes, and mean
    bits are those over the weights of the first. Others, and all where there is no difference, stay as they are."""
    return tuple(_carried_over(budget, before, after) for budget in budgets)


def carried_limits(
    budgets: Budgets, before: PrecisionSpace, after: PrecisionSpace, latencies: LatencyTable | None = None
) -> Limits:
    """The limits of a model for budgets that were given for the one that it was made of, as of `limits_of`. Mean bits
    are those over the weights of the first, also in what is said where they cannot be met."""
    if not budgets:
        return limits_of(after)
    weights = AverageBits(before).weights
    return tuple(
        Limit(AverageBits(after, weights), one.amount) if one.kind == "bits" else _limit(after, carried, latencies)
        for one, carried in zip(budgets, carried_over(budgets, before, after))
    )


def _carried_over(budget: Budget, before: PrecisionSpace, after: PrecisionSpace) -> Budget:
    if budget.kind == "bits":
        factor = AverageBits(before).weights / AverageBits(after).weights
        return budget if factor == 1 else replace(budget, amount=budget.amount * factor)
    if budget.kind != "ratio":
        return budget
    if budget.scope in WORDS.values():
        amounts = [_activations(space, budget).most for space in (before, after)]
    else:
        amounts = [float_bytes(space, budget.scope) * budget.amount for space in (before, after)]
    return budget if amounts[0] == amounts[1] else replace(budget, kind="bytes", amount=amounts[0])


def _limit(space: PrecisionSpace, budget: Budget, latencies: LatencyTable | None) -> Limit:
    if budget.kind == "latency":
        return measure(Latency(space, budget.batch, budget.tokens, latencies), budget)
    name, _ = _OF_A_KIND.get(budget.kind, ("size", ""))
    return measure(COSTS[name](space), budget)


def given_limits(cost: CostModel, given: "Limit | Budget | str | float | Iterable") -> Limits:
    """Limits from what a user wrote beside a cost model: a budget, its text, a number in the unit of `cost`, a `Limit`
    of another cost model, or several of these in a list, or as `"a + b"`.

    Raises:
        BudgetError: one cannot be read, or `cost` cannot measure it.
    """
    if isinstance(given, Limit):
        return (given,)
    if isinstance(given, (int, float)):
        return (measure(cost, given),)
    if isinstance(given, str | Budget):
        return tuple(measure(cost, budget) for budget in budgets_of(given))
    return tuple(limit for one in given for limit in given_limits(cost, one))


def _activations(space: PrecisionSpace, budget: Budget) -> Limit:
    over = next(over for over, word in WORDS.items() if word == budget.scope)
    cost = ActivationBytes(space, budget.tokens, budget.batch, over)
    return Limit(cost, cost.float_bytes * budget.amount if budget.kind == "ratio" else budget.amount)


def _in_unit(cost: CostModel, budget: Budget) -> Limit:
    """Budgets that only a cost model of their own unit can measure."""
    name, unit = _OF_A_KIND[budget.kind]
    if cost.unit != unit:
        raise BudgetError(
            f"{budget} is no budget of a cost in {cost.unit}: give the cost model {name!r}, which measures "
            f"{budget.kind}"
        )
    if isinstance(cost, Latency):
        cost.check(budget.amount)
    return Limit(cost, budget.amount)


def _size(cost: CostModel, budget: Budget) -> Limit:
    size = float_bytes(cost.space, budget.scope) * budget.amount if budget.kind == "ratio" else budget.amount
    if isinstance(cost, StoredSize):
        return Limit(StoredSize(cost.space, budget.scope), size)
    if not isinstance(cost, PaperSize):
        raise BudgetError(f"a cost in {cost.unit} cannot measure a budget in bytes; give a plain number of {cost.unit}")
    if budget.scope != "encoder":
        raise BudgetError("the papers' size counts the encoder only; write the budget as 'encoder:<size>'")
    return Limit(cost, size / 2**20)
