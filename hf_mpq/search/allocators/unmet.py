"""What is said where nothing meets a budget."""

from math import ceil, floor

from ...core import BudgetError

_MANY_BYTES = 1e5


def unmet(limit: float, least: float, unit: str, among: str = "") -> BudgetError:
    """The error that names the smallest possible cost, rounded so that it can be met and the budget cannot."""
    return BudgetError(
        f"the budget of {amount(limit, unit)} cannot be met{among}; the smallest possible is "
        f"{amount(least, unit, upwards=True)}"
    )


def amount(number: float, unit: str, upwards: bool = False) -> str:
    """Such as `"4.26 MB"`, `"1,000 bytes"` or `"2.5 bits"`; bytes and megabytes are rounded down, or upwards."""
    if unit != "bytes":
        return f"{number:,.6g} {unit}"
    whole = ceil if upwards else floor
    return f"{whole(number):,} bytes" if number < _MANY_BYTES else f"{whole(number / 1e4) / 100:,.2f} MB"
