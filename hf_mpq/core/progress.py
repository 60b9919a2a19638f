"""Progress for people, on stderr: stdout is for results."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from .._extras import require

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

T = TypeVar("T")


def track(items: Iterable[T], description: str, total: float | None = None, disable: bool = False) -> Iterator[T]:
    """The items, with a bar beside them while they are worked on."""
    require("train", "a progress bar")
    from rich.progress import track as shown

    yield from shown(items, description, total=total, console=_stderr(), disable=disable)


def bars(disable: bool = False) -> "Progress":
    """Bars that are moved by hand, as rich has them."""
    require("train", "a progress bar")
    from rich.progress import Progress

    return Progress(console=_stderr(), disable=disable)


def say(words: str) -> None:
    """Print on stderr."""
    require("train", "a progress report")
    _stderr().print(words)


def _stderr() -> "Console":
    from rich.console import Console

    return Console(stderr=True)
