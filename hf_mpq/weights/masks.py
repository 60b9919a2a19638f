"""Masks: which single weights are kept at all."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..core import Registry
from .roles import LearnedPart

MASKS: Registry[type["WeightMask"]] = Registry("mask")


class WeightMask(LearnedPart, ABC):
    """Holds `keep` `(out, in)` bool; weights outside it are zero in forward and are not stored."""

    def __init__(self, shape: tuple[int, int]):
        super().__init__()
        self.register_buffer("keep", torch.ones(shape, dtype=torch.bool))

    def initialise(self, weight: Tensor) -> None:
        """Set `keep` from a float weight."""
        self.keep.copy_(self.choose(weight))

    @abstractmethod
    def choose(self, weight: Tensor) -> Tensor:
        """Which weights to keep: `(out, in)` bool."""


@MASKS.register("element")
class ElementMask(WeightMask):
    """Keeps the largest |w| of the whole matrix.

    Args:
        density: share of weights kept, above 0 and at most 1.
    """

    def __init__(self, shape: tuple[int, int], density: float = 0.5):
        super().__init__(shape)
        if not 0 < density <= 1:
            raise ValueError(f"density must be above 0 and at most 1, got {density}")
        self.density = density

    def choose(self, weight: Tensor) -> Tensor:
        return _keep_largest(weight.abs().flatten(), round(self.density * weight.numel())).view_as(weight)


@MASKS.register("n:m")
class BlockMask(WeightMask):
    """Keeps the `kept` largest |w| of every `block` consecutive inputs of a row (top-k, so ties keep exactly as many).

    Raises:
        ValueError: when the block does not divide the inputs.
    """

    def __init__(self, shape: tuple[int, int], kept: int = 2, block: int = 4):
        super().__init__(shape)
        if shape[1] % block or not 0 < kept <= block:
            raise ValueError(f"cannot keep {kept} of every {block} in rows of {shape[1]}")
        self.kept, self.block = kept, block

    def choose(self, weight: Tensor) -> Tensor:
        return _keep_largest(weight.abs().unflatten(1, (-1, self.block)), self.kept).flatten(1)


def _keep_largest(scores: Tensor, count: int) -> Tensor:
    """True at the `count` largest of the last axis."""
    position = scores.topk(count, dim=-1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, position, True)
