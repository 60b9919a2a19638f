"""Whether bit planes can be trained in the memory that is free."""

import torch
from torch import nn

from ...nn.walk import matrices

ADDED = 12
"""Bytes that training adds to each float32 parameter: its gradient and two moments of Adam."""


def check_memory(model: nn.Module) -> None:
    """Raise ValueError when the gradients and moments of the planes of a model are more than what is free.

    Where nobody says how much is free, nothing is refused.
    """
    planes = [layer.program.source.planes for _, layer in matrices(model) if layer.program.source.has_planes]
    if not planes:
        return
    needed, free = ADDED * sum(one.numel() for one in planes), free_bytes(planes[0].device)
    if free is not None and needed > free:
        raise ValueError(
            f"training the bit planes of this model takes {needed / 1e9:.1f} GB more than it has now, and "
            f"{free / 1e9:.1f} GB are free: leave out the highest of the bits, which takes a plane from every weight, "
            "search some matrices alone by rules, or train a smaller model"
        )


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free on a device; None where it is not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as lines:
            found = {name: value for name, _, value in (line.partition(":") for line in lines)}
        return int(found["MemAvailable"].split()[0]) * 1024 if device.type == "cpu" else None
    except (OSError, KeyError):
        return None
