"""Which of the things that a packed layer was prepared with runs now."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

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


def refuse_export() -> None:
    """Raise RuntimeError inside `torch.export`, which cannot trace what the caller is about to do."""
    if torch.compiler.is_exporting():
        raise RuntimeError(
            "torch.export can trace neither decoding nor calls of the int8 kernel: export the model "
            "after hf_mpq.prepare(model, 'cpu-float')"
        )
