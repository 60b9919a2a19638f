"""`backend="auto"`: what is fastest at each shape, by a measurement at its first use."""

import statistics
import threading
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..nn.packed import activated, active_backend
from .decoded import release
from .swapped import Swapped, swap_in, swap_out

ROUNDS = 5
"""Measurements of each backend at a new shape, in turn; the median counts."""
Shape = tuple[int, int]


class FastestBackend:
    """Which of a model's backends is the fastest at the shape of its input.

    A shape is batch and tokens, each rounded up to a power of two. At the first use of one all backends run in turn, a
    few times: that call takes about a dozen times as long, and others that come meanwhile in other threads run the
    first backend. What the measurement decoded for backends that are chosen at no shape is given up after it.

    Attributes:
        chosen: shape to backend, for the shapes that were met.
        milliseconds: shape to what was measured.
    """

    def __init__(self, names: tuple[str, ...]):
        self.names = names
        self.chosen: dict[Shape, str] = {}
        self.milliseconds: dict[Shape, dict[str, float]] = {}
        self._lock = threading.Lock()

    def at(self, model: nn.Module, args: tuple, kwargs: Mapping) -> str:
        """The name of the fastest for these arguments, measured first where their shape is new."""
        shape = shape_of(args, kwargs)
        if shape is not None and shape not in self.chosen and self._lock.acquire(blocking=False):
            try:
                self._measure(model, shape, args, kwargs)
            finally:
                self._lock.release()
        return self.chosen.get(shape, self.names[0])

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
        release(model, self.chosen.values())


class Automatic(Swapped):
    """Mixin that makes calls of a model run the backend that its `fastest_backend` names; inside `use_backend`, and
    while compiling, it stands back.
    """

    kept = ("fastest_backend",)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the original model."""
        if torch.compiler.is_compiling() or active_backend() is not None or "fastest_backend" not in vars(self):
            return super().__call__(*args, **kwargs)
        with activated(self.fastest_backend.at(self, args, kwargs)):
            return super().__call__(*args, **kwargs)


def follow(model: nn.Module, names: tuple[str, ...]) -> None:
    """Make a model choose among backends that it is prepared for, in place."""
    swap_in(model, Automatic, fastest_backend=FastestBackend(names))


def unfollow(model: nn.Module) -> None:
    """Make models, inside this one too, what they were before `follow`, in place."""
    for module in model.modules():
        swap_out(module, Automatic)


def shape_of(args: tuple, kwargs: Mapping) -> Shape | None:
    """Batch and tokens of a model's input, each rounded up to a power of two; None where no tensor tells."""
    ids = next(
        (
            value
            for value in (*args[:1], *(kwargs.get(name) for name in ("input_ids", "inputs_embeds")))
            if isinstance(value, Tensor)
        ),
        None,
    )
    return None if ids is None or ids.dim() < 2 else (_power(ids.shape[0]), _power(ids.shape[1]))


def _wait(model: nn.Module) -> None:
    """Until a GPU has done what it was asked for; a CPU has already."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _power(count: int) -> int:
    return 1 << max(count - 1, 0).bit_length()
