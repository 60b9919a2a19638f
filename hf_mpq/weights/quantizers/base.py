"""The contract of every weight quantizer."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from ...core import Registry, SubgroupLayout
from ..choice import Choice
from ..ranges import RangedPart

QUANTIZERS: Registry[type["WeightQuantizer"]] = Registry("weight quantizer", passed=("scale_dtype",))


class WeightQuantizer(RangedPart, ABC):
    """Sub-groups and bits to differentiable values, and to the codes that are stored.

    A new quantizer needs `candidate`, `encode` and its encoding, and `roles` of what it learns; `mix` and `select` then
    work, and may be replaced by something faster.

    Args:
        layout: the sub-groups.
        candidates: precisions, ascending; 0 needs nothing and gives zeros.
        scale_dtype: type that scales are stored as; the forward pass already uses them rounded to it.
    """

    encoding: str
    keeps_scales = False
    """Whether every precision has one fixed grid per sub-group until `calibrate`, `restore` or training change it: a
    weight that was put on its grid then stays where it is, and `restore` sets another scale."""
    most_bits: ClassVar[int] = 8
    """The highest precision that it is for."""
    live: Tensor | None = None
    """Weights that are not held at zero, broadcastable to `(out, in)`; None for all. Set by the weight's program."""

    def __init__(self, layout: SubgroupLayout, candidates: tuple[int, ...], scale_dtype: torch.dtype = torch.float16):
        super().__init__()
        self.layout = layout
        self.candidates = candidates
        self.precisions = tuple(bits for bits in candidates if bits > 0)
        if max(self.precisions, default=0) > self.most_bits:
            raise ValueError(
                f"{type(self).__name__} is for {self.most_bits} bits at most, got {max(self.precisions)}: give lower "
                "bits, or the matrices that need more another quantizer by a rule"
            )
        self.scale_dtype = scale_dtype

    @abstractmethod
    def candidate(self, weight: Tensor, bits: int) -> Tensor:
        """`weight` `(out, in)` quantized to `bits` in every sub-group, differentiable: same shape."""

    @abstractmethod
    def encode(self, weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        """Codes `(lines, length)` uint8 and floats `(groups, floats)` float32, rounded to `scale_dtype`.

        `ENCODINGS[self.encoding].decode` of them equals `candidate` bit for bit.
        """

    def distances(self, weight: Tensor, bits: int) -> Tensor:
        """How far each weight is from its level at a precision, in steps, `(lines, length)`: from -1/2 to 1/2, and 0
        beyond the last levels.

        Raises:
            ValueError: for a quantizer without even steps.
        """
        raise ValueError(f"{type(self).__name__} has no even steps between its levels; choose quantizer='lsq'")

    def calibrate(self, weight: Tensor, live: Tensor | None = None) -> None:
        """Set scales from a float weight; `live` `(out, in)` bool leaves some weights out of account."""

    def restore(self, bits: int, groups: Tensor, floats: Tensor) -> None:
        """Take back what `encode` stored: `floats` `(chosen, floats)` of the sub-groups `groups` `(chosen,)` at `bits`.

        Quantizers that read their scales off the weight have nothing to take back.
        """

    def update(self, weight: Tensor) -> None:
        """Called once per optimizer step, outside autograd; never from forward."""

    def forward(self, weight: Tensor, choice: Choice) -> Tensor:
        """The weight used in forward: a mixture of the candidates, or one for each sub-group; or as it is."""
        if choice.passes:
            return weight
        if choice.probabilities is not None:
            return self.mix(weight, choice.probabilities)
        return self.select(weight, choice.index)

    def rows(self, weight: Tensor, choice: Choice, rows: Tensor) -> Tensor:
        """Only some rows of what `forward` gives, for a table of which few rows are looked up: `(len(rows), in)`."""
        return self(weight, choice).index_select(0, rows)

    def mix(self, weight: Tensor, probabilities: Tensor) -> Tensor:
        """Sum of the candidates weighted by `probabilities` `(groups, candidates)`."""
        total = torch.zeros_like(weight)
        for k, bits in enumerate(self.candidates):
            if bits > 0:
                total = total + self._broadcast(probabilities[:, k]) * self.candidate(weight, bits)
        return total

    def select(self, weight: Tensor, index: Tensor) -> Tensor:
        """Each sub-group at the candidate of its `index` `(groups,)`."""
        total = torch.zeros_like(weight)
        for k, bits in enumerate(self.candidates):
            if bits > 0:
                total = torch.where(self._broadcast(index == k), self.candidate(weight, bits), total)
        return total

    def _broadcast(self, values: Tensor) -> Tensor:
        """`(groups,)` to something that broadcasts with `(out, in)`."""
        lines = self.layout.expand(values)
        return lines.unsqueeze(1) if self.layout.axis == 0 else lines.unsqueeze(0)
