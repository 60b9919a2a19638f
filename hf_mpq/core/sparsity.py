"""Patterns of N:M sparsity: how many of so many consecutive inputs of a row are kept."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

Pattern: TypeAlias = tuple[int, int]
"""`(kept, block)`: `kept` of every `block` consecutive inputs."""
DENSE: Pattern = (1, 1)
"""All are kept."""


def pattern_of(given: Any) -> Pattern:
    """The pattern that is written as `"2:4"` (two of every four are kept), or as `"dense"`.

    Raises:
        ValueError: when it is none.
    """
    if isinstance(given, str) and given.casefold() == "dense":
        return DENSE
    found = re.fullmatch(r"(\d+):(\d+)", given) if isinstance(given, str) else None
    kept, block = (int(number) for number in found.groups()) if found else (0, 0)
    if not 0 < kept <= block:
        raise ValueError(
            f"a pattern is 'dense', or such as '2:4' where two of every four weights are kept; got {given!r}"
        )
    return DENSE if kept == block else (kept, block)


def pattern_word(pattern: Pattern) -> str:
    """The inverse of `pattern_of`."""
    return "dense" if pattern[0] == pattern[1] else f"{pattern[0]}:{pattern[1]}"


def checked_patterns(given: Any) -> tuple[str, ...]:
    """Words of several patterns, each once, the densest first; raises ValueError when some are none."""
    if isinstance(given, str) or not isinstance(given, Iterable) or isinstance(given, Mapping):
        raise ValueError(f"patterns are a list, such as ['dense', '2:4']; got {given!r}")
    found = {pattern_of(one) for one in given}
    return tuple(pattern_word(one) for one in sorted(found, key=lambda one: (-one[0] / one[1], one)))
