"""Means of loss terms between two logs."""

import torch
from accelerate import Accelerator
from torch import Tensor


class RunningMeans:
    """Adds up each term without waiting for the device."""

    def __init__(self):
        self._sums: dict[str, Tensor] = {}
        self._passes: dict[str, int] = {}

    def add(self, name: str, value: Tensor, starts: bool) -> None:
        """One micro-batch's share of a term; `starts` for the first one of a pass."""
        self._sums[name] = self._sums.get(name, 0.0) + value.detach()
        self._passes[name] = self._passes.get(name, 0) + starts

    def take(self, accelerator: Accelerator) -> dict[str, float]:
        """Mean of each term per pass that had it, over all processes; then starts anew."""
        means = {name: value / self._passes[name] for name, value in self._sums.items()}
        self._sums, self._passes = {}, {}
        if not means:
            return {}
        return dict(zip(means, accelerator.reduce(torch.stack(list(means.values())), "mean").tolist()))
