"""Progress for people, on stderr: stdout is for results."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich import progress
from rich.console import Console

T = TypeVar("T")


def track(items: Iterable[T], description: str, total: float | None = None, disable: bool = False) -> Iterator[T]:
    """The items, with a bar beside them while they are worked on."""
    yield from progress.track(items, description, total=total, console=Console(stderr=True), disable=disable)


def bars(disable: bool = False) -> progress.Progress:
    """Bars that are moved by hand, as rich has them."""
    return progress.Progress(console=Console(stderr=True), disable=disable)
