"""What is said where nothing meets a budget."""

from collections.abc import Sequence
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from ...core import BudgetError
from ...cost import Limit

_MANY_BYTES = 1e5
_MANY_OPERATIONS = 1e7


def unmet(limit: Limit, least: float, among: str = "") -> BudgetError:
    """The error that names the limit and the smallest possible cost, rounded so that it can be met and the budget
    cannot, and by how much it is more."""
    unit, excess = limit.cost.unit, least - limit.most
    more = f", {amount(excess, unit, upwards=True)} more" if excess > 0 else ""
    return BudgetError(
        f"the budget of {named(limit)} cannot be met{among}; the smallest possible is "
        f"{amount(least, unit, upwards=True)}{more}"
    )


def unmet_together(limits: Sequence[Limit], spent: NDArray[np.float64]) -> BudgetError:
    """The error where each limit can be kept, but no assignment that was found keeps them all.

    Args:
        limits: of the model.
        spent: in each, by what comes nearest to all of them.
    """
    over = int((spent / np.array([limit.most for limit in limits])).argmax())
    cost, excess = limits[over].cost, amount(spent[over] - limits[over].most, limits[over].cost.unit, upwards=True)
    return BudgetError(
        f"the budgets of {' and '.join(map(named, limits))} cannot be met together: what comes nearest takes "
        f"{amount(spent[over], cost.unit, upwards=True)} of {cost.what}, {excess} more; allow more of one of them"
    )


def named(limit: Limit) -> str:
    """Such as `"2.50 MB of activations"`."""
    return f"{amount(limit.most, limit.cost.unit)}{_of(limit)}"


def _of(limit: Limit) -> str:
    """What is limited, where the unit does not say it."""
    return "" if limit.cost.what in ("model", limit.cost.unit) else f" of {limit.cost.what}"


def amount(number: float, unit: str, upwards: bool = False) -> str:
    """Such as `"4.26 MB"`, `"1,000 bytes"`, `"2.5 bits"` or `"40 GBOPs"`; bytes and megabytes are rounded down, or
    upwards."""
    if unit == "bops" and number >= _MANY_OPERATIONS:
        return f"{number / 1e9:,.6g} GBOPs"
    if unit != "bytes":
        return f"{number:,.6g} {unit}"
    whole = ceil if upwards else floor
    return f"{whole(number):,} bytes" if number < _MANY_BYTES else f"{whole(number / 1e4) / 100:,.2f} MB"
