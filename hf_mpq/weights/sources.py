"""Where the float weight comes from."""

from abc import ABC, abstractmethod

from torch import Tensor

from ..core import Registry
from .roles import LearnedPart

SOURCES: Registry[type["Source"]] = Registry("weight source")


class Source(LearnedPart, ABC):
    """Stored parameters to a float weight `(out, in)`.

    Attributes:
        owns_weight: whether the source holds the truth itself; the module's `weight` is then only a copy, frozen,
            refreshed when a state dict is taken, so that files always have a float `weight`.
    """

    owns_weight = False

    def __init__(self, shape: tuple[int, int]):
        super().__init__()
        self.shape = shape

    @abstractmethod
    def forward(self, weight: Tensor) -> Tensor:
        """The float weight; `weight` is the module's own parameter."""

    def initialise(self, weight: Tensor) -> None:
        """Start from a float weight."""


@SOURCES.register("float-master")
class FloatMaster(Source):
    """The module's own `weight` parameter, as it is."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight
