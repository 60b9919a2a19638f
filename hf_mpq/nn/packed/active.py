"""Which of the things that a packed layer was prepared with runs now."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_ACTIVE: ContextVar[str | None] = ContextVar("active_backend", default=None)


def active_backend() -> str | None:
    """The backend that packed layers must run in this context; None lets each run the first it was prepared for."""
    return _ACTIVE.get()


@contextmanager
def activated(name: str | None) -> Iterator[None]:
    """Inside, in this thread, packed layers run that backend; those that were not prepared for it decode."""
    token = _ACTIVE.set(name)
    try:
        yield
    finally:
        _ACTIVE.reset(token)
