"""Loss terms in float32, whatever the models run in."""

from collections.abc import Callable, Mapping
from functools import wraps

import torch
from torch import Tensor

from .base import Objective, Signals

Forward = Callable[[Objective, Signals, Signals | None, Mapping[str, Tensor]], Tensor]


def in_float32(forward: Forward) -> Forward:
    """An objective's forward with autocast off: its own products would run in half precision otherwise."""

    @wraps(forward)
    def inner(self: Objective, student: Signals, teacher: Signals | None, batch: Mapping[str, Tensor]) -> Tensor:
        device = next(value.device for value in student.outputs.values() if isinstance(value, Tensor))
        with torch.autocast(device.type, enabled=False):
            return forward(self, student, teacher, batch)

    return inner
