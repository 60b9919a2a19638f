"""Wall time of what a device was told to do."""

from time import perf_counter

import torch


def seconds(device: torch.device) -> float:
    """Seconds of the wall clock; on a GPU once it has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()
