"""What a sweep varies: one axis for each name, with choices or a range."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

PLAIN = (type(None), bool, int, float, str)


@dataclass(frozen=True)
class Choices:
    """Values that an axis may have, in order."""

    values: tuple[Any, ...]

    def written(self) -> list[Any]:
        """As `axis_of` reads it."""
        return list(self.values)

    def words(self) -> list[Any]:
        """What Optuna is given for the values: themselves, or JSON where they are lists or objects."""
        return [value if isinstance(value, PLAIN) else word_of(value) for value in self.values]

    def value_of(self, word: Any) -> Any:
        """The value that a word stands for."""
        return self.values[self.words().index(word)]


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both among them; whole ones where both are.

    Attributes:
        log: whether each order of magnitude is as likely as another.
        step: between two numbers; None for any.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def whole(self) -> bool:
        """Whether the numbers are whole."""
        return all(isinstance(one, int) for one in (self.low, self.high, self.step or 1))

    def written(self) -> dict[str, Any]:
        """As `axis_of` reads it."""
        found = {"low": self.low, "high": self.high}
        return {**found, **({"log": True} if self.log else {}), **({"step": self.step} if self.step else {})}


def word_of(value: Any) -> str:
    """A value as text, the same however it was written."""
    return json.dumps(value, sort_keys=True)


Axis: TypeAlias = Choices | Range


def axis_of(name: str, given: Any) -> Axis:
    """What a space says of a name: a list of choices, `{"low": 1e-5, "high": 1e-3, "log": true}`, or one value.

    Raises:
        ValueError: there is no choice, one comes twice, or the range is none.
    """
    if isinstance(given, Mapping) and {"low", "high"} & set(given):
        return _range(name, given)
    if not isinstance(given, list | tuple):
        return Choices((given,))
    axis = Choices(tuple(given))
    words = [word_of(value) for value in axis.values]
    if not words:
        raise ValueError(f"{name} has no choices: give one at least")
    twice = next((word for word in words if words.count(word) > 1), None)
    if twice is not None:
        raise ValueError(f"{name} has {twice} twice among its choices: once is enough")
    return axis


def _range(name: str, given: Mapping[str, Any]) -> Range:
    example = '{"low": 1e-5, "high": 1e-3, "log": true}'
    unknown = sorted(set(given) - {"low", "high", "log", "step"})
    if unknown or len({"low", "high"} & set(given)) < 2:
        raise ValueError(f"{name}: a range has low, high, and log or step where wanted, such as {example}; got {given}")
    found = Range(**given)
    numbers = [one for one in (found.low, found.high, found.step) if one is not None]
    wrong = [one for one in numbers if isinstance(one, bool) or not isinstance(one, int | float)]
    if wrong:
        hint = "; YAML reads 1e-5 as a word, 1.0e-5 as a number" if isinstance(wrong[0], str) else ""
        raise ValueError(f"{name}: {wrong[0]!r} is no number{hint}")
    if not all(map(math.isfinite, numbers)) or found.low >= found.high:
        raise ValueError(f"{name}: low must be below high, got {found.low} and {found.high}")
    if found.log and (found.low <= 0 or found.step is not None):
        raise ValueError(f"{name}: a logarithmic range is above zero and has no step; got {found.written()}")
    if found.step is not None and found.step <= 0:
        raise ValueError(f"{name}: step must be above zero, got {found.step}")
    return found
