"""A way back to decoding for models that a backend has prepared."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_ONLY_REFERENCE: ContextVar[bool] = ContextVar("only_reference", default=False)


def only_reference() -> bool:
    """Whether packed layers must decode, whatever they are prepared for."""
    return _ONLY_REFERENCE.get()


@contextmanager
def reference_backend() -> Iterator[None]:
    """Inside, in this thread, prepared models run as packed ones: they decode their weights in every pass."""
    token = _ONLY_REFERENCE.set(True)
    try:
        yield
    finally:
        _ONLY_REFERENCE.reset(token)
