"""Masks: which single weights are kept at all."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core import Part, Registry
from ..core.storage import FLAGS
from ..format import MASK_ENCODINGS
from ..format.masks import Blocks
from .roles import LearnedPart

RUNS = Part("runs")
MASKS: Registry[type["WeightMask"]] = Registry("mask")


class WeightMask(LearnedPart, ABC):
    """Holds `keep` `(out, in)` bool; weights outside it are zero in forward and are not stored.

    A mask is open (all is kept), chosen, and chosen anew as often as a schedule wants, or locked.

    Args:
        encoding: registered name of how it is stored; None takes the smallest of those that can store it.

    Attributes:
        locked: whether `revisit` is over for good; set while a stage runs, and not saved.
        measured: whether only the weight says how much is kept, as the option `density`.

    Raises:
        ValueError: no such mask is stored like this.
    """

    locked = False
    measured: ClassVar[bool] = False

    def __init__(self, shape: tuple[int, int], encoding: str | None = None, **options: Any):
        super().__init__()
        self.stored_as = self.encodings(encoding, **options)
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

    @classmethod
    def encodings(cls, encoding: str | None = None, **options: Any) -> tuple[Part, ...]:
        """How a mask of these options may be stored; whichever columns are folded away, one of them takes it.

        Raises:
            ValueError: no such mask is stored as `encoding`.
        """
        own = cls._own_encodings(**options)
        known = {part.name: part for part in (*own, FLAGS, RUNS)}
        if encoding is None:
            return tuple(known.values())
        chosen = known.get(MASK_ENCODINGS.name_of(encoding))
        if chosen is None:
            raise ValueError(f"such a mask is not stored as {encoding!r}: use {', '.join(known)}, or None for the best")
        return (chosen, FLAGS) if chosen in own else (chosen,)

    @classmethod
    def _own_encodings(cls, **options: Any) -> tuple[Part, ...]:
        """Those for what is special to this kind of mask."""
        return ()

    @classmethod
    @abstractmethod
    def share(cls, **options: Any) -> float:
        """Share of the weights that a mask of these options keeps in the end."""

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

    def __init__(self, shape: tuple[int, int], density: float = 0.5, encoding: str | None = None):
        super().__init__(shape, encoding)
        if not 0 < density <= 1:
            raise ValueError(f"density must be above 0 and at most 1, got {density}")
        self.density = density

    @classmethod
    def share(cls, density: float = 0.5, **options: Any) -> float:
        return density

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

    def __init__(self, shape: tuple[int, int], kept: int = 2, block: int = 4, encoding: str | None = None):
        super().__init__(shape, encoding, kept=kept, block=block)
        if shape[1] % block or not 0 < kept <= block:
            raise ValueError(f"cannot keep {kept} of every {block} in rows of {shape[1]}")
        self.kept, self.block = kept, block

    @classmethod
    def share(cls, kept: int = 2, block: int = 4, **options: Any) -> float:
        return kept / block

    @classmethod
    def _own_encodings(cls, kept: int = 2, block: int = 4, **options: Any) -> tuple[Part, ...]:
        return (Part("n:m", kept=kept, block=block),) if Blocks.fits(kept, block) else ()

    def choose(self, weight: Tensor, share: float = 1.0) -> Tensor:
        kept = self.block - round(share * (self.block - self.kept))
        return _keep_largest(weight.abs().unflatten(1, (-1, self.block)), kept).flatten(1)

    def pruned_share(self) -> float:
        free = float(self.keep.float().mean()) * self.block
        return (self.block - free) / (self.block - self.kept) if self.block > self.kept else 1.0


@MASKS.register("locked")
class LockedMask(WeightMask):
    """Keeps what is not zero when it is set, for good: the pattern of a model that was pruned before (the pattern lock
    of Prune Once for All, Zafrir et al., 2021). A weight without zeros is not masked.

    Args:
        density: share of weights that are not zero, which sizes are counted by; None counts them in the weight.
    """

    locked, measured = True, True

    def __init__(self, shape: tuple[int, int], density: float | None = None, encoding: str | None = None):
        super().__init__(shape, encoding)

    @classmethod
    def share(cls, density: float | None = None, **options: Any) -> float:
        return 1.0 if density is None else density

    def choose(self, weight: Tensor, share: float = 1.0) -> Tensor:
        return weight != 0

    def pruned_share(self) -> float:
        return 1.0


def _keep_largest(scores: Tensor, count: int) -> Tensor:
    """True at the `count` largest of the last axis."""
    position = scores.topk(count, dim=-1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, position, True)
