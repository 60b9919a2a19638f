"""The contract of every source, and the plain one."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ...core import Registry, SubgroupLayout
from ..choice import Choice
from ..roles import LearnedPart

SOURCES: Registry[type["Source"]] = Registry("weight source", passed=("scale_dtype",))


class Source(LearnedPart, ABC):
    """Stored parameters to a float weight `(out, in)`.

    Args:
        layout: the sub-groups.
        candidates: precisions, ascending.
        scale_dtype: type that scales are stored as.

    Attributes:
        owns_weight: whether the source holds the truth itself; the module's `weight` is then only a copy, frozen,
            refreshed when a state dict is taken, so that files always have a float `weight`.
        has_planes: whether a gate can select bit planes of it.
    """

    owns_weight = False
    has_planes = False

    def __init__(self, layout: SubgroupLayout, candidates: tuple[int, ...], scale_dtype: torch.dtype = torch.float16):
        super().__init__()
        self.layout, self.candidates, self.scale_dtype = layout, candidates, scale_dtype

    @abstractmethod
    def forward(self, weight: Tensor, choice: Choice | None = None) -> Tensor:
        """The float weight.

        Args:
            weight: the module's own parameter.
            choice: of the gate, where the weight is for a forward pass; None asks for all of the float weight.
        """

    def initialise(self, weight: Tensor) -> None:
        """Start from a float weight, so that `forward` gives it back where no choice is named."""

    def set_temperature(self, temperature: float) -> None:
        """Set how soft what it stores is, where it has a temperature."""


@SOURCES.register("float-master")
class FloatMaster(Source):
    """The module's own `weight` parameter, as it is."""

    def forward(self, weight: Tensor, choice: Choice | None = None) -> Tensor:
        return weight
