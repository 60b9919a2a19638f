"""A registered name with its options, written in one way everywhere."""

import copy
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from .registry import NO_OPTIONS, Registry

_TEXT = re.compile(r"(?P<name>.+?):(?P<options>\w+=.*)", re.DOTALL)
_COMMA = re.compile(r",(?=\s*\w+=)")


class Part:
    """A name with options, which never change: `Part("lsq", start="paper")`.

    Equal to another of the same name and options; lists and tuples in options are the same.

    Args:
        name: of what is meant; `Part.of` with a registry spells it as it is registered.
        options: keyword arguments of what is registered.

    Raises:
        ValueError: the name is no word, or an option is called `name`.
    """

    name: str
    """The name."""

    def __init__(self, name: str, /, **options: Any):
        if not isinstance(name, str):
            raise ValueError(f"a part has a name, such as 'lsq', and options; got {name!r}")
        if "name" in options:
            raise ValueError(f"{name!r} cannot have an option 'name', which is where its own name is written")
        self.__dict__.update(name=name, _options=copy.deepcopy(options))

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments; a copy."""
        return copy.deepcopy(self.__dict__["_options"])

    @property
    def written(self) -> str | dict[str, Any]:
        """What `of` reads as this: the name where there are no options, else `{"name": ..., option: value}`."""
        return {"name": self.name, **plain(self.options)} if self.options else self.name

    @classmethod
    def of(cls, given: "Written", registry: Registry | None = None, what: str | None = None) -> "Part":
        """The part that is written as a name, as `{"name": ..., option: value}`, or is one.

        Args:
            given: one of the three.
            registry: that it must be in, with these options; None takes it as it is.
            what: it is, for errors; the registry's kind where it is None.

        Raises:
            ValueError: it is none of the three, or the name or an option is unknown; the message has the known ones.
        """
        what = what or (registry.kind if registry is not None else "part")
        if isinstance(given, Mapping) and "name" in given and all(isinstance(key, str) for key in given):
            part = cls(given["name"], **{key: value for key, value in given.items() if key != "name"})
        elif isinstance(given, str | Part):
            part = given if isinstance(given, Part) else cls(given)
        else:
            raise ValueError(f"{what} must be a name, or a mapping with 'name' and options; got {given!r}")
        if registry is None:
            return part
        registry.check_options(part.name, part.options)
        return cls(registry.name_of(part.name), **part.options)

    @classmethod
    def parse(cls, text: str, what: str = "part") -> "Part":
        """The part that a command line writes: `hessian`, `hessian:draws=8,measure=trace`, or JSON as of `of`. A value
        is JSON, or else a word.

        Raises:
            ValueError: it is JSON of something else.
        """
        if text.lstrip().startswith("{"):
            return cls.of(_json(text, what), what=what)
        match = _TEXT.fullmatch(text)
        if match is None:
            return cls.of(text, what=what)
        pairs = (one.strip().split("=", 1) for one in _COMMA.split(match["options"]))
        return cls.of({"name": match["name"], **{key: _value(word) for key, word in pairs}}, what=what)

    def __setattr__(self, name: str, value: object):
        raise AttributeError("a part never changes: write another one")

    def __repr__(self) -> str:
        return f"Part({', '.join([repr(self.name), *(f'{key}={value!r}' for key, value in self.options.items())])})"

    def __eq__(self, other: object) -> bool:
        return _frozen(self) == _frozen(other) if isinstance(other, Part) else NotImplemented

    def __hash__(self) -> int:
        try:
            return hash(_frozen(self))
        except TypeError:  # an option that has no hash
            return hash(self.name)


Written: TypeAlias = str | Mapping[str, Any] | Part
"""The three ways to write a part."""


def name_and_options(slot: str, given: "Written", beside: Mapping[str, Any] = NO_OPTIONS) -> tuple[str, dict[str, Any]]:
    """Name and options of a slot, some of which may stand beside it in `<slot>_options`.

    Raises:
        ValueError: it is none of the three ways, or there are options in both places.
    """
    part = Part.of(given, what=slot)
    if part.options and beside and part != Part(part.name, **beside):
        raise ValueError(
            f"{slot}={given!r} has options, and {slot}_options={dict(beside)!r} stands beside it: leave out one of them"
        )
    return part.name, part.options or dict(beside)


def by_name(slot: str, given: Mapping[str, Mapping[str, Any]] | Iterable["Written"]) -> dict[str, dict[str, Any]]:
    """Name to options of several parts, which are written so, or as a list of parts.

    Raises:
        ValueError: it is neither, or a name comes twice.
    """
    if isinstance(given, Mapping):
        return {name: plain(options or {}) for name, options in given.items()}
    if isinstance(given, str | Part) or not isinstance(given, Iterable):
        raise ValueError(f"{slot} is a list of parts, or a mapping of names to options; got {given!r}")
    parts = [Part.of(one, what=f"one of {slot}") for one in given]
    if len({part.name for part in parts}) < len(parts):
        raise ValueError(f"{slot} names {' and '.join(part.name for part in parts)}: each can be there once")
    return {part.name: plain(part.options) for part in parts}


def plain(value: Any) -> Any:
    """The value with every part in it, however deep, as it is written."""
    if isinstance(value, Part):
        return value.written
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    return type(value)(map(plain, value)) if type(value) in (list, tuple) else value


def _frozen(value: Any) -> Any:
    if isinstance(value, Part):
        return value.name, _frozen(value.options)
    if isinstance(value, Mapping):
        return frozenset((key, _frozen(one)) for key, one in value.items())
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{what} {text!r} is no JSON ({error}); write name:option=value, or JSON") from None


def _value(word: str) -> Any:
    try:
        return json.loads(word)
    except json.JSONDecodeError:
        return word
