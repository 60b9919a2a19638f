"""Compile a tensor function where that pays: a compiler is there, and the tensors are not tiny."""

import os
import shutil
from collections.abc import Callable
from functools import cache, wraps

import torch
from torch import Tensor

SMALLEST = 1 << 16
"""Elements below which the eager form is used: compiling for toy tensors costs more than it saves."""

VARIANTS = 64
"""Compiled forms of one function: by number of candidates, with and without offsets, and so on."""


@cache
def compiler_present() -> bool:
    """Whether `torch.compile` can build code here; `HF_MPQ_COMPILE=0` in the environment says no."""
    if os.environ.get("HF_MPQ_COMPILE", "1") == "0":
        return False
    return any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "clang++", "cl"))


def compiled_when_large(function: Callable) -> Callable:
    """Decorator: run `function` compiled when its first argument is large, eagerly otherwise or if compiling fails."""
    build = cache(lambda: torch.compile(function, dynamic=True))
    failed: list[Exception] = []

    @wraps(function)
    def call(first: Tensor, *rest):
        if first.numel() < SMALLEST or failed or not compiler_present() or torch.compiler.is_compiling():
            return function(first, *rest)
        try:
            with torch._dynamo.config.patch(recompile_limit=VARIANTS), torch.autocast(first.device.type, enabled=False):
                return build()(first, *rest)
        except (torch._dynamo.exc.BackendCompilerFailed, torch._dynamo.exc.InternalTorchDynamoError) as error:
            failed.append(error)
            return function(first, *rest)

    call.eager = function
    return call
