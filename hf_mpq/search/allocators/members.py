"""What is chosen together, and what may be said of it."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...core import OpenChoice, PrecisionSpace, WeightSpec, input_of, pattern_word
from .base import Scores


def check_patterns(space: PrecisionSpace) -> None:
    """Raise ValueError while N:M patterns of some matrices are open."""
    name, patterns = next(iter(space.open_patterns.items()), (None, ()))
    if name is not None:
        raise ValueError(
            f"{name} has {' or '.join(map(pattern_word, patterns))} to choose from, and only the allocator 'schemes' "
            "chooses patterns: compress or train the model with it (method='nxmiformer' does), or give one pattern"
        )


def owners_of(space: PrecisionSpace, scores: Scores) -> dict[str, str]:
    """Name of everything that is chosen to that of its matrix: inputs without scores are not."""
    inputs = {input_of(name): name for name in space.weights}
    return {name: inputs.get(name, name) for name in space.open_choices if name in scores or name not in inputs}


def members_of(
    weights: Mapping[str, WeightSpec], choices: Mapping[str, OpenChoice], owners: Mapping[str, str]
) -> dict[tuple[str, str, bool], list[str]]:
    """Names of the choices by tie; what is not tied is alone."""
    members: dict[tuple[str, str, bool], list[str]] = {}
    for name, owner in owners.items():
        tie, is_input = weights[owner].tie, name != owner
        key = ("tie", tie, is_input) if tie is not None else ("matrix", owner, is_input)
        members.setdefault(key, []).append(name)
    for names in members.values():
        if len({choices[name] for name in names}) > 1:
            raise ValueError(f"tied matrices need equal candidates and numbers of sub-groups: {', '.join(names)}")
    return members


def checked(name: str, choice: OpenChoice, scores: Scores) -> NDArray[np.float64]:
    if name not in scores:
        raise ValueError(f"there are no scores for {name!r}")
    given = scores[name]
    table = given.detach().cpu().double().numpy() if isinstance(given, Tensor) else np.asarray(given, dtype=float)
    expected = (choice.groups, len(choice.candidates))
    if table.shape != expected:
        raise ValueError(f"the scores of {name!r} have the shape {table.shape}, but it has {expected} choices")
    if np.isnan(table).any() or not np.isfinite(table).any(axis=1).all():
        raise ValueError(f"the scores of {name!r} must not be NaN, and each sub-group needs a finite one")
    return table


def input_bits(weights: Mapping[str, WeightSpec], chosen: Mapping[str, NDArray[np.uint8]]) -> dict[str, int]:
    """Bits of inputs: those chosen, those of the weights where they follow them, else those of the spec."""
    found = {}
    for name, spec in weights.items():
        if spec.activation is not None and spec.activation.follows:
            found[name] = spec.activation.following(chosen[name].tolist())
        elif spec.activation is not None:
            found[name] = int(chosen[input_of(name)][0]) if input_of(name) in chosen else spec.activation.bits
    return found
