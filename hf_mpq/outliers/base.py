"""The contract of every rule against outliers."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor

from ..core import Registry
from .inputs import InputGroup

OUTLIERS: Registry[type["OutlierRule"]] = Registry("rule against outliers")


class InputAffine(NamedTuple):
    """Layers read `(x - shift) / scale`: `scale` `(in,)` positive, `shift` `(in,)` or None for 0."""

    scale: Tensor
    shift: Tensor | None = None


class OutlierRule(ABC):
    """Chooses what is done to each channel of an input that some layers share.

    Attributes:
        parts: what it stores for each channel at most, of `"scale"` and `"shift"`.
    """

    parts: tuple[str, ...] = ("scale",)

    @abstractmethod
    def affine(self, group: InputGroup) -> InputAffine | None:
        """The shift and scale of a group's input; None leaves the layers without any."""
