"""Name to object tables, so that a method is chosen by a word in a config."""

from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """A table of named objects of one kind.

    Args:
        kind: what the objects are, in words; used in error messages.
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._items: dict[str, T] = {}

    def register(self, name: str):
        """Decorator that adds an object under `name`; raises ValueError when the name is taken by another object."""

        def add(item: T) -> T:
            known = self._items.setdefault(name, item)
            if (known.__module__, known.__qualname__) != (item.__module__, item.__qualname__):
                raise ValueError(f"{self.kind} {name!r} is already registered; choose another name")
            self._items[name] = item
            return item

        return add

    def add(self, name: str, item: T) -> T:
        """Add plain data under `name`; raises ValueError when the name is taken by something else."""
        if self._items.setdefault(name, item) != item:
            raise ValueError(f"{self.kind} {name!r} is already registered; choose another name")
        return item

    def __getitem__(self, name: str) -> T:
        if name not in self._items:
            raise ValueError(f"unknown {self.kind} {name!r}; the known ones are: {', '.join(sorted(self._items))}")
        return self._items[name]

    def __contains__(self, name: str) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._items))
