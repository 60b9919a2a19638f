"""Progress for people, on stderr: stdout is for results."""

from collections.abc import Iterable, Iterator
from operator import length_hint
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

from .._extras import require

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

T = TypeVar("T")
LONG = 20.0
"""Seconds from which on it is said in a log, too, how much is left."""


def readable(seconds: float) -> str:
    """`"8.0 s"`, `"30 s"`, `"3 min"`."""
    if seconds < 10:
        return f"{max(seconds, 0.1):.1f} s"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def track(items: Iterable[T], description: str, total: float | None = None, disable: bool = False) -> Iterator[T]:
    """The items, with a bar beside them while they are worked on; where none is drawn, in a log, words after the first
    that say how long all others will take, and again where that turns out to be wrong by a quarter."""
    require("train", "a progress bar")
    from rich.progress import track as shown

    console, count = _stderr(), length_hint(items) if total is None else total
    start, promised = perf_counter(), 0.0
    for done, item in enumerate(shown(items, description, total=total, console=console, disable=disable), 1):
        yield item
        if disable or console.is_terminal or not count:
            continue
        spent = perf_counter() - start
        whole = spent * count / done
        if done < count and whole > LONG and abs(whole - promised) > promised / 4:
            promised = whole
            console.print(f"{description}: about {readable(whole - spent)} more")


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
