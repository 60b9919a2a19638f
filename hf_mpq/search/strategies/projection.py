"""From what open gates say to one assignment, within limits where there are some."""

from collections.abc import Mapping
from math import inf

import torch
from torch import Tensor, nn

from ...core import Assignment, OpenChoice, PrecisionSpace
from ...core.space import input_of
from ...cost import Limits
from ...nn.walk import prefixes, reluctances
from ..allocators import allocate
from ..allocators.start import check_possible
from ..allocators.units import Units
from ..together import choose_together


def likeliest(space: PrecisionSpace, reluctances: Mapping[str, Tensor], limits: Limits = ()) -> Assignment:
    """The most probable assignment: of all, or of those that keep limits, sub-groups taken as independent.

    Sub-groups of tied matrices are decided together. Where the most probable assignment of all keeps the limits, it is
    the result.

    Args:
        space: what may be chosen.
        reluctances: by matrix name, `(groups, candidates)`, as the gates of open matrices give them.
        limits: all of them are kept; those without an amount are none.

    Raises:
        BudgetError: when nothing keeps them.
        ValueError: when a matrix is open, but there is no reluctance of its gate.
    """
    scores = {name: _reluctance(space, name, reluctances) for name in space.open_choices}
    if bounded(limits):
        return allocate.choose(space, bounded(limits), scores)
    units = Units(space, scores)
    return units.assignment(units.score.argmin(axis=1))


def likeliest_of(space: PrecisionSpace, model: nn.Module, limits: Limits = ()) -> Assignment:
    """`likeliest` of the gates of a model. Those that decide their sub-groups together take one of their choices, the
    best of all within the limits where nothing else is open.

    Raises:
        BudgetError: when nothing keeps the limits.
    """
    choices = prefixes(model)
    if choices and set(space.open_choices) <= set(choices):
        return choose_together(likeliest(space, reluctances(model)), choices, bounded(limits))
    return likeliest(space, reluctances(model), limits)


def filled(space: PrecisionSpace, found: Assignment, probabilities: Mapping[str, Tensor], limits: Limits) -> Assignment:
    """An assignment that keeps limits, with what it leaves of them used: sub-groups rise to candidates that are drawn,
    so that as many draws as possible have at least their precision.

    Args:
        space: what may be chosen.
        found: the assignment.
        probabilities: of the candidates of open choices, `(groups, candidates)`, by name; what is not there stays.
        limits: all of them are kept; those without an amount are none.
    """
    if not bounded(limits):
        return found
    bits: dict[str, tuple[int, ...]] = {name: one.bits for name, one in found.matrices.items()}
    bits |= {input_of(name): (one,) for name, one in found.activation_bits.items()}
    scores = {}
    for name, choice in space.open_choices.items():
        own = torch.tensor([choice.candidates.index(one) for one in bits[name]]).unsqueeze(1)
        place = torch.arange(len(choice.candidates))
        drawn = probabilities.get(name, torch.zeros(choice.groups, len(place))).detach().cpu().double()
        missed = (1 - drawn.cumsum(1)).clamp(min=0)  # how often more is drawn
        rises = (place > own) & (drawn > 0)
        scores[name] = torch.where((place == own) | rises, missed, inf)
    return allocate.choose(space, bounded(limits), scores)


def check_limits(space: PrecisionSpace, limits: Limits) -> None:
    """Raise BudgetError when no assignment keeps the limits, so that nobody searches for one."""
    if bounded(limits):
        check_possible(space, bounded(limits))


def bounded(limits: Limits) -> Limits:
    """Those that have an amount."""
    return tuple(limit for limit in limits if limit.amount is not None)


def _reluctance(space: PrecisionSpace, name: str, reluctances: Mapping[str, Tensor]) -> Tensor:
    """Of nested codes the highest precision is the file's, and no gate is asked."""
    if name in space.weights and space.weights[name].nested:
        return _highest_alone(space.open_choices[name])
    if name not in reluctances:
        raise ValueError(f"{name!r} is open, and its gate says nothing of its candidates")
    return reluctances[name]


def _highest_alone(choice: OpenChoice) -> Tensor:
    found = torch.full((choice.groups, len(choice.candidates)), inf)
    found[:, -1] = 0.0
    return found
