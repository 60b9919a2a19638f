"""Name to object tables, so that a method is chosen by a word in a config."""

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import Any, Generic, TypeVar

T = TypeVar("T")
NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


class Registry(Generic[T]):
    """A table of named objects of one kind; upper and lower case are the same in names.

    Args:
        kind: what the objects are, in words; used in error messages.
        passed: keyword arguments that the package gives itself when it makes one, so that they are no options.
        home: module that registers the objects of the package; imported at the first look.
    """

    def __init__(self, kind: str, passed: Collection[str] = (), home: str | None = None):
        self.kind, self._passed, self._home = kind, passed, home
        self._items: dict[str, T] = {}

    def register(self, name: str):
        """Decorator that adds an object under `name`; raises ValueError when the name is taken by another object."""

        def add(item: T) -> T:
            spelt = self._spelt(name)
            known = self._items.setdefault(spelt, item)
            if _path_of(known) != _path_of(item):
                raise ValueError(f"{self.kind} {name!r} is already registered; choose another name")
            self._items[spelt] = item
            return item

        return add

    def add(self, name: str, item: T) -> T:
        """Add plain data under `name`; raises ValueError when the name is taken by something else."""
        if self._items.setdefault(self._spelt(name), item) != item:
            raise ValueError(f"{self.kind} {name!r} is already registered; choose another name")
        return item

    def name_of(self, name: str) -> str:
        """The name as it is registered.

        Raises:
            ValueError: it is unknown; the message has the known ones, and the one that was perhaps meant.
        """
        if name not in self:
            raise ValueError(unknown(self.kind, name, self))
        return self._spelt(name)

    def make(self, name: str, *given: Any, options: Mapping[str, Any] = NO_OPTIONS, **passed: Any) -> Any:
        """What is registered under `name`, called with what is given, and with the user's options.

        Raises:
            ValueError: the name, or an option, is unknown; the message has the known ones.
        """
        self.check_options(name, options)
        made: Any = self[name]
        return made(*given, **passed, **options)

    def check_options(self, name: str, options: Mapping[str, Any]) -> None:
        """Raise ValueError when what is registered under `name` does not have one of these options."""
        item: Any = self[name]
        names = options_of(item)
        known = set(options if names is None else names) - set(self._passed if names is not None else ())
        wrong = [one for one in options if one not in known]
        if wrong:
            raise ValueError(unknown(f"option of {self.kind} {self.name_of(name)!r}:", wrong[0], known))

    def __getitem__(self, name: str) -> T:
        items = self._filled()
        return items[name] if name in items else items[self.name_of(name)]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._spelt(name) in self._filled()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._filled()))

    def _spelt(self, name: str) -> str:
        if name in self._filled():
            return name
        return next((known for known in self._items if known.casefold() == name.casefold()), name)

    def _filled(self) -> dict[str, T]:
        if self._home is not None:
            home, self._home = self._home, None
            import_module(home)
        return self._items


def _path_of(item: Any) -> tuple[str, str]:
    """Where an object is defined, the same when its module is loaded twice."""
    return item.__module__, item.__qualname__


@cache
def options_of(item: Callable) -> tuple[str, ...] | None:
    """Names of the keyword arguments with defaults, of a class also those that it passes on to its bases; None where
    any name is taken."""
    found: list[str] = []
    for call in [vars(kind).get("__init__") for kind in item.__mro__] if isinstance(item, type) else [item]:
        if call is None:
            continue
        arguments = inspect.signature(call).parameters.values() if call is not object.__init__ else ()
        found += [one.name for one in arguments if one.default is not one.empty]
        if not any(one.kind is one.VAR_KEYWORD for one in arguments):
            return tuple(found)
    return None


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """What an error says of a name that is none of the known ones."""
    known = sorted(known)
    meant = nearest(str(name), known)
    hint = f"did you mean {meant!r}? " if meant is not None else ""
    return f"unknown {kind} {name!r}; {hint}the known ones are: {', '.join(known) or 'none'}"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is spelt most like this one, if any is much like it."""
    spelt = {one.casefold(): one for one in known}
    found = get_close_matches(word.casefold(), spelt, n=1)
    return spelt[found[0]] if found else None
