"""Parsed targets: how small, how fast, or with how much energy or how many operations."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real

from .registry import nearest

_UNITS = {
    "bytes": ("bytes", 1.0),
    "KB": ("bytes", 1e3),
    "kB": ("bytes", 1e3),
    "MB": ("bytes", 1e6),
    "GB": ("bytes", 1e9),
    "KiB": ("bytes", 2.0**10),
    "MiB": ("bytes", 2.0**20),
    "GiB": ("bytes", 2.0**30),
    "bits": ("bits", 1.0),
    "bit": ("bits", 1.0),
    "x": ("ratio", 1.0),
    "%": ("ratio", 0.01),
    "ms": ("latency", 1.0),
    "uJ": ("energy", 1.0),
    "GBOPs": ("operations", 1e9),
    "TBOPs": ("operations", 1e12),
}
_PATTERN = re.compile(
    r"(?:(?P<scope>[\w-]+):)?\s*(?P<number>\d+(?:\.\d+)?|\.\d+)\s*(?P<unit>[A-Za-z]+|%)?"
    r"(?:@(?P<batch>\d+)x(?P<tokens>\d+))?"
)
_ACTIVATIONS = ("activations", "peak-activations")
_SCOPES = ("model", "encoder", "embedding", *_ACTIVATIONS)
_EXAMPLES = "'12MB', '11MiB', 'encoder:25MiB', '2.5bits', '0.25x', '25%', '8ms', '120uJ' or '40GBOPs'"


class BudgetError(ValueError):
    """A budget that cannot be read, or that nothing in the space can meet."""


@dataclass(frozen=True)
class Budget:
    """A target for the compressed model.

    Attributes:
        amount: how much, in the unit of its kind.
        kind: `"bytes"` (everything stored in the scope), `"bits"` (mean code bits over compressible encoder weights),
            `"ratio"` (share of the float32 file), `"latency"` (milliseconds), `"energy"` (microjoules) or
            `"operations"` (bit operations).
        scope: `"model"`, `"encoder"` or `"embedding"`; bytes of `"activations"` are those of all inputs of matrices
            together, of `"peak-activations"` those of the largest one.
        batch, tokens: of the input that a latency, or bytes of activations, are meant for.
    """

    amount: float
    kind: str
    scope: str = "model"
    batch: int = 1
    tokens: int = 128

    def __str__(self) -> str:
        """The text that `parse` reads as this."""
        unit = next(unit for unit, (kind, factor) in _UNITS.items() if kind == self.kind)
        amount = self.amount / _UNITS[unit][1]
        shape = f"@{self.batch}x{self.tokens}" if self.of_inputs else ""
        return f"{self.scope}:{f'{amount:.12f}'.rstrip('0').rstrip('.')}{unit}{shape}"

    @property
    def of_inputs(self) -> bool:
        """Whether it depends on batch and tokens."""
        return self.kind == "latency" or self.scope in _ACTIVATIONS

    @property
    def limits(self) -> str:
        """What it limits; two budgets for one model limit different things."""
        return self.scope if self.kind in ("bytes", "ratio") else self.kind

    @classmethod
    def parse(cls, text: "str | float | Budget") -> "Budget":
        """Read `"12MB"` (10^6 bytes), `"11MiB"`, `"encoder:25MiB"`, `"2.5bits"`, `"0.25x"`, `"25%"` or `0.25` (of the
        float32 file), `"8ms"` (at batch 1 x 128 tokens; `"40ms@8x64"` at another), `"120uJ"` or `"40GBOPs"` (both of
        one sequence of 128 tokens), or `"activations:2500kB"` (of one sequence of 128 tokens;
        `"activations:800kB@1x32"` of another). Upper and lower case matter in units.

        Raises:
            BudgetError: when it is none of these, or not above zero.
        """
        if isinstance(text, Budget):
            return text
        match = _PATTERN.fullmatch(_in_words(text))
        if match is None:
            raise BudgetError(f"cannot read the budget {text!r}; write for example {_EXAMPLES}")
        if float(match["number"]) == 0:
            raise BudgetError(f"the budget {text!r} must be above zero")
        kind, factor = _UNITS[_unit(match["number"], match["unit"], text)]
        amount = float(match["number"]) * factor
        shape = (int(match["batch"]), int(match["tokens"])) if match["batch"] else (1, 128)
        found = cls(amount, kind, _scope(match["scope"], kind), *shape)
        if match["batch"] and (not found.of_inputs or min(shape) < 1):
            raise BudgetError(
                f"cannot read the budget {text!r}; only milliseconds and activations have a batch and tokens, "
                "above zero, such as '8ms@1x128'"
            )
        return found


Budgets = tuple[Budget, ...]
"""Limits that one model keeps together; none of them without a budget."""


def budgets_of(given: "str | float | Budget | Iterable[str | float | Budget] | None") -> Budgets:
    """What limits one model, from what a user wrote: one budget, several in an iterable or as `"a + b"`, or None.

    Raises:
        BudgetError: one cannot be read, two limit the same thing, or the iterable is empty.
    """
    if given is None:
        return ()
    if isinstance(given, str):
        found = tuple(Budget.parse(part) for part in given.split("+"))
    elif isinstance(given, Budget | Real):
        found = (Budget.parse(given),)
    elif not isinstance(given, Iterable) or not (several := list(given)):
        raise BudgetError(f"budget must be one, such as '12MB', or a list of them; got {given!r}")
    else:
        found = tuple(one for part in several for one in (budgets_of(part) or (Budget.parse(part),)))
    twice = [what for what, count in Counter(one.limits for one in found).items() if count > 1]
    if twice:
        raise BudgetError(
            f"one model cannot have two limits of one kind ({twice[0]}): {' and '.join(map(str, found))}; keep the "
            "smaller one, or, for a model each, give hf_mpq.compress a list"
        )
    return found


def _in_words(given: object) -> str:
    """What was given as text; a number from 0 to 1 is a share of the float32 file."""
    if isinstance(given, Real) and not isinstance(given, bool):
        number = float(given)
        return f"{number:.12f}".rstrip("0") if 0 < number < 1 else f"{number:g}"
    return str(given).strip()


def _unit(number: str, unit: str | None, text: object) -> str:
    """The unit of a number, spelt as it is documented; a share needs none.

    Raises:
        BudgetError: there is none, or another; the message has the one that was perhaps meant.
    """
    if unit is None and 0 < float(number) < 1:
        return "x"
    if unit is None:
        raise BudgetError(
            f"the budget {text!r} has no unit: write '{number}MB' for the file, '{number}bits' for the "
            f"mean precision, or '{number}%' of the float32 file"
        )
    if unit in _UNITS:
        return unit
    meant = nearest(unit, _UNITS) if unit not in ("b", "B") else None
    hint = f"did you mean '{number}{meant}'?" if meant is not None else f"write for example {_EXAMPLES}"
    raise BudgetError(f"cannot read the budget {text!r}; {hint}")


def _scope(word: str | None, kind: str) -> str:
    scope = (word or ("encoder" if kind == "bits" else "model")).casefold()
    if scope not in _SCOPES:
        raise BudgetError(f"unknown scope {word!r} in the budget; the known ones are: {', '.join(_SCOPES)}")
    if scope in _ACTIVATIONS and kind not in ("bytes", "ratio"):
        raise BudgetError(f"a budget of {scope} is in bytes, such as '{scope}:2500kB', or a share of the float32 ones")
    if kind in ("energy", "operations") and scope == "embedding":
        raise BudgetError("energy and operations are counted in the encoder's products; drop the scope")
    if kind == "latency" and scope != "model":
        raise BudgetError("a budget in ms is for the whole model; drop the scope")
    if kind == "bits" and scope != "encoder":
        raise BudgetError("a budget in bits counts encoder weights only; drop the scope or write 'encoder:'")
    return scope
