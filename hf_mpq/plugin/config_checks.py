"""What a config says in words, checked when it is written: registered names, their options, patterns, sub-groups."""

import re
from collections.abc import Collection, Iterable, Mapping
from numbers import Integral
from typing import Any

from ..core import Part, Reduction, Registry, SubgroupLayout, budgets_of, by_name, checked_patterns, name_and_options
from ..nn.layer_choice import LAYER_RULES
from ..weights import ACTIVATIONS, GATES, MASKS, QUANTIZERS, SOURCES, TRANSFORMS

SLOTS: dict[str, Registry] = {
    "quantizer": QUANTIZERS,
    "gate": GATES,
    "source": SOURCES,
    "mask": MASKS,
    "activation": ACTIVATIONS,
}
"""Where the parts of a config are registered; what is kept of each is its name, and its options as `<slot>_options`."""


def whole_numbers(given: Any) -> tuple[int, ...] | None:
    """One number or several as a tuple; None where something is no whole number, or there is nothing."""
    several = isinstance(given, Iterable) and not isinstance(given, str)
    values = tuple(given) if several else (given,)
    if not values or any(isinstance(one, bool) or not isinstance(one, Integral) for one in values):
        return None
    return tuple(int(one) for one in values)


def checked_groups(groups: Any) -> int | str:
    """The count or word, as it is documented; raises ValueError when it is none."""
    if isinstance(groups, bool) or not isinstance(groups, int | str) or (isinstance(groups, int) and groups < 1):
        raise ValueError(f"groups must be a count, 'channel', 'head', 'matrix' or 'columns:<count>', got {groups!r}")
    if isinstance(groups, str) and not groups.isdigit():
        SubgroupLayout.of(groups.casefold(), (1, 1), heads=1)
    return groups.casefold() if isinstance(groups, str) else groups


def check_pattern(what: str, pattern: Any) -> None:
    """Raise ValueError when it is no regular expression."""
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(
            f"{what} {pattern!r} is no regular expression ({error}); for a name as it stands write re.escape(name)"
        ) from error


def checked_rules(rules: Any, known: Iterable[str], look_up: bool = True) -> dict[str, dict]:
    """The rules, with names as they are registered; without `look_up` names may be unknown here.

    Raises:
        ValueError: a pattern is none, options are no mapping, or a name, an option or sub-groups are unknown.
    """
    if not isinstance(rules, Mapping):
        raise ValueError(
            f"rules must be a mapping of patterns to options, such as {{'query': {{'bits': 8}}}}; got {rules!r}"
        )
    return {pattern: _checked_rule(pattern, options, tuple(known), look_up) for pattern, options in rules.items()}


def _checked_rule(pattern: str, options: Any, known: tuple[str, ...], look_up: bool) -> dict:
    check_pattern("rule", pattern)
    if not isinstance(options, Mapping):
        raise ValueError(f"rule {pattern!r} must be a mapping of options, such as {{'bits': 8}}; got {options!r}")
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"rule {pattern!r} has unknown options {unknown}; the known ones are: {known}")
    options = {**options, **separated(options, {slot for slot in SLOTS if slot in options})}
    slots = {slot: options[slot] for slot in SLOTS if slot in options} if look_up else {}
    checked = {**options, **registered(options, slots)}
    if "groups" in options:
        checked["groups"] = checked_groups(options["groups"])
    if options.get("patterns"):
        checked["patterns"] = list(checked_patterns(options["patterns"]))
    check_one_mask(options.get("mask"), options.get("patterns"), f"rule {pattern!r}")
    if "transforms" in options and look_up:
        checked["transforms"] = checked_transforms(options["transforms"])
    return checked


def check_one_mask(mask: Any, patterns: Any, where: str) -> None:
    """Raise ValueError where a mask is given beside patterns, which choose it."""
    if mask is not None and patterns:
        raise ValueError(
            f"{where} has the mask {mask!r} beside patterns={list(patterns)}, and a matrix has one mask: leave out "
            "one of the two"
        )


def separated(fields: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
    """Name and options, `quantizer` and `quantizer_options` for instance, of each slot that is given as a mapping or a
    `Part`; none where all are words.

    Raises:
        ValueError: it is something else, or there are options in both places.
    """
    found = {}
    for slot in SLOTS:
        if slot in given and fields[slot] is not None and not isinstance(fields[slot], str):
            name, options = name_and_options(slot, fields[slot], fields.get(f"{slot}_options") or {})
            found |= {slot: name, f"{slot}_options": options}
    return found


def registered(fields: Mapping[str, Any], chosen: Mapping[str, str | None]) -> dict[str, str | None]:
    """The chosen names as they are registered; options of each, `quantizer_options` for instance, are checked too."""
    found: dict[str, str | None] = {}
    for slot, name in chosen.items():
        options = fields.get(f"{slot}_options") or {}
        if not isinstance(options, Mapping):
            raise ValueError(f"{slot}_options must be a mapping of options to values; got {options!r}")
        found[slot] = name if name is None else Part.of({"name": name, **options}, SLOTS[slot]).name
    return found


def checked_budget(given: Any) -> str | list[str] | None:
    """One budget as it is written, several that one model meets as a list, or none.

    Raises:
        BudgetError: one cannot be read, two limit the same thing, or the list is empty.
    """
    several = isinstance(given, Iterable) and not isinstance(given, str)
    given = list(given) if several else given
    found = budgets_of(given)
    if given is None or isinstance(given, str):
        return given
    if several and all(isinstance(one, str) for one in given):
        return given
    return [str(one) for one in found] if several else str(found[0])


def checked_transforms(given: Any) -> dict[str, dict]:
    """The transforms with names as they are registered, in their order.

    Raises:
        ValueError: they are no mapping of names to options, nor a list of parts, or a name or an option is unknown.
    """
    if isinstance(given, list | tuple):
        given = by_name("transforms", given)
    if not isinstance(given, Mapping) or not all(isinstance(options, Mapping) for options in given.values()):
        raise ValueError(f"transforms must map names to options, such as {{'unit-rows': {{}}}}; got {given!r}")
    for name, options in given.items():
        TRANSFORMS.check_options(name, options)
    return {TRANSFORMS.name_of(name): dict(options) for name, options in given.items()}


def checked_reduction(given: Any) -> Reduction:
    """The reduction that is written; raises ValueError for one that cannot be read, or an unknown rule."""
    wanted = Reduction.of(given)
    return Reduction.of({**wanted.to_dict(), "choose": LAYER_RULES.name_of(wanted.choose)})
