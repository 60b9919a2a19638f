"""`backend="auto"`: what is fastest at each shape, by a measurement at its first use."""

import statistics
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..nn.packed import activated, active_backend

ROUNDS = 5
"""Measurements of each backend at a new shape, in turn; the median counts."""
Shape = tuple[int, int]


class FastestBackend:
    """Hooks around a model's forward that make it run the fastest of its backends at the shape of its input.

    A shape is batch and tokens, each rounded up to a power of two. At the first use of one all backends run in turn, a
    few times: that call takes about a dozen times as long, and others that come meanwhile in other threads run the
    first backend. Inside `use_backend`, and while compiling, it stands back.

    Attributes:
        chosen: shape to backend, for the shapes that were met.
        milliseconds: shape to what was measured.
    """

    def __init__(self, names: tuple[str, ...]):
        self.names = names
        self.chosen: dict[Shape, str] = {}
        self.milliseconds: dict[Shape, dict[str, float]] = {}
        self._lock, self._here = threading.Lock(), threading.local()
        self._handles = []

    def attach(self, model: nn.Module) -> None:
        """Follow the forward passes of `model`."""
        self._handles = [model.register_forward_pre_hook(self._before, with_kwargs=True),
                         model.register_forward_hook(self._after, always_call=True)]  # fmt: skip

    def detach(self) -> None:
        """Leave the model as it was."""
        for handle in self._handles:
            handle.remove()

    def _before(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        stack = self._here.__dict__.setdefault("stacks", [])
        stack.append(ExitStack())
        if active_backend() is None and not torch.compiler.is_compiling():
            shape = shape_of(args, kwargs)
            if shape is not None and shape not in self.chosen and self._lock.acquire(blocking=False):
                try:
                    self._measure(model, shape, args, kwargs)
                finally:
                    self._lock.release()
            stack[-1].enter_context(activated(self.chosen.get(shape, self.names[0])))

    def _after(self, *_: Any) -> None:
        self._here.stacks.pop().close()

    @torch.no_grad()
    def _measure(self, model: nn.Module, shape: Shape, args: tuple, kwargs: Mapping) -> None:
        taken = {name: [] for name in self.names}
        _wait(model)
        for _ in range(ROUNDS + 1):
            for name in self.names:
                with activated(name):
                    start = time.perf_counter()
                    model.forward(*args, **kwargs)
                    _wait(model)
                    taken[name].append(1000 * (time.perf_counter() - start))
        self.milliseconds[shape] = {name: statistics.median(times[1:]) for name, times in taken.items()}
        self.chosen[shape] = min(self.names, key=self.milliseconds[shape].__getitem__)

    def __deepcopy__(self, memo: dict) -> "FastestBackend":
        return FastestBackend(self.names)  # a copy of the model decodes, whatever is active

    def __reduce__(self):
        return FastestBackend, (self.names,)


def shape_of(args: tuple, kwargs: Mapping) -> Shape | None:
    """Batch and tokens of a model's input, each rounded up to a power of two; None where no tensor tells."""
    ids = next((value for value in (*args[:1], *(kwargs.get(name) for name in ("input_ids", "inputs_embeds")))
                if isinstance(value, Tensor)), None)  # fmt: skip
    return None if ids is None or ids.dim() < 2 else (_power(ids.shape[0]), _power(ids.shape[1]))


def _wait(model: nn.Module) -> None:
    """Until a GPU has done what it was asked for; a CPU has already."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _power(count: int) -> int:
    return 1 << max(count - 1, 0).bit_length()
