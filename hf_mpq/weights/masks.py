"""Masks: which single weights are kept at all."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..core import Registry
from .roles import LearnedPart

MASKS: Registry[type["WeightMask"]] = Registry("mask")


class WeightMask(LearnedPart, ABC):
    """Holds `keep` `(out, in)` bool; weights outside it are zero in forward and are not stored.

    A mask is open (all is kept), chosen, and chosen anew as often as a schedule wants, or locked.

    Attributes:
        locked: whether `revisit` is over for good; set while a stage runs, and not saved.
    """

    locked = False

    def __init__(self, shape: tuple[int, int]):
        super().__init__()
        self.register_buffer("keep", torch.ones(shape, dtype=torch.bool))

    def initialise(self, weight: Tensor) -> None:
        """Set `keep` from a float weight."""
        self.keep.copy_(self.choose(weight))

    @torch.no_grad()
    def revisit(self, weight: Tensor, share: float = 1.0) -> None:
        """Choose `keep` anew from a float weight.

        Args:
            weight: `(out, in)`, with the values of what is held at zero now.
            share: of what the mask holds at zero in the end, 0 (open) to 1.

        Raises:
            ValueError: when the mask is locked.
        """
        if self.locked:
            raise ValueError("a locked mask stays as it is; unlock it first")
        self.keep.copy_(self.choose(weight, share))

    @abstractmethod
    def choose(self, weight: Tensor, share: float = 1.0) -> Tensor:
        """Which weights to keep when the given share of the pruning is done: `(out, in)` bool."""

    @abstractmethod
    def pruned_share(self) -> float:
        """Share of the pruning that is done, 0 (open) to 1."""


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

    def choose(self, weight: Tensor, share: float = 1.0) -> Tensor:
        return _keep_largest(weight.abs().flatten(), self._count(weight.numel(), share)).view_as(weight)

    def pruned_share(self) -> float:
        every, free = self.keep.numel(), int(self.keep.sum())
        held = every - self._count(every, 1.0)
        return (every - free) / held if held else 1.0

    def _count(self, every: int, share: float) -> int:
        return every - round(share * (every - round(self.density * every)))


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

    def choose(self, weight: Tensor, share: float = 1.0) -> Tensor:
        kept = self.block - round(share * (self.block - self.kept))
        return _keep_largest(weight.abs().unflatten(1, (-1, self.block)), kept).flatten(1)

    def pruned_share(self) -> float:
        free = float(self.keep.float().mean()) * self.block
        return (self.block - free) / (self.block - self.kept) if self.block > self.kept else 1.0


def _keep_largest(scores: Tensor, count: int) -> Tensor:
    """True at the `count` largest of the last axis."""
    position = scores.topk(count, dim=-1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, position, True)
