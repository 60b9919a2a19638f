"""Compile a tensor function where that pays: a compiler is there, and the tensors are not tiny."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache, wraps
from importlib.util import find_spec
from threading import Lock

import torch
import torch.fx.experimental._config as shapes
from torch import Tensor

SMALLEST = 1 << 16
"""Elements below which the eager form is used: compiling for toy tensors costs more than it saves."""

VARIANTS = 64
"""Compiled forms of one function: by number of candidates, with and without offsets, and so on."""


@cache
def compiler_present(device: str = "cpu") -> bool:
    """Whether `torch.compile` can build code here for a type of device; `HF_MPQ_COMPILE=0` in the environment says no.

    For all but the CPU that takes Triton, too.
    """
    if os.environ.get("HF_MPQ_COMPILE", "1") == "0" or (device != "cpu" and find_spec("triton") is None):
        return False
    return any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "clang++", "cl"))


watch: list[Callable] = []
"""What is called, by its last entry, in place of every function that is compiled for large tensors: with that function
and its arguments. For those who count."""


_compiles: ContextVar[bool] = ContextVar("compiles", default=True)


@contextmanager
def run_as_written() -> Iterator[None]:
    """Inside, nothing is compiled: for what runs a few times only, where building it takes longer than it saves."""
    token = _compiles.set(False)
    try:
        yield
    finally:
        _compiles.reset(token)


def compiled_when_large(function: Callable) -> Callable:
    """Decorator: run `function` compiled when its first argument is large, eagerly otherwise or if compiling fails."""
    build = cache(lambda: torch.compile(function, dynamic=True))
    failed: list[Exception] = []

    @wraps(function)
    def call(first: Tensor, *rest):
        if watch:
            return watch[-1](function, first, *rest)
        as_written, kind = first.numel() < SMALLEST or not _compiles.get(), first.device.type
        if as_written or failed or not compiler_present(kind) or torch.compiler.is_compiling():
            return function(first, *rest)
        autocast = torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
        try:
            with _ManyVariants(), autocast:
                return build()(first, *rest)
        except (torch._dynamo.exc.BackendCompilerFailed, torch._dynamo.exc.InternalTorchDynamoError) as error:
            failed.append(error)
            return function(first, *rest)

    call.eager = function
    return call


class _ManyVariants:
    """What `torch._dynamo.config.patch(recompile_limit=VARIANTS)` does, in a seventh of its time: calls are many. And
    square matrices get no variant of their own. Both settings are everybody's: the first thread changes them, and the
    last one that is inside sets them back."""

    _lock, _inside, _before = Lock(), 0, (0, True)

    def __enter__(self) -> None:
        kind = type(self)
        with self._lock:
            if not kind._inside:
                kind._before = torch._dynamo.config.recompile_limit, shapes.use_duck_shape
                torch._dynamo.config.recompile_limit, shapes.use_duck_shape = VARIANTS, False
            kind._inside += 1

    def __exit__(self, *_) -> None:
        kind = type(self)
        with self._lock:
            kind._inside -= 1
            if not kind._inside:
                torch._dynamo.config.recompile_limit, shapes.use_duck_shape = kind._before
