"""What is done to the float weight before it is masked and quantized."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ..core import Registry
from .roles import WEIGHTS, LearnedPart

TRANSFORMS: Registry[type["WeightTransform"]] = Registry("weight transform")


class WeightTransform(LearnedPart, ABC):
    """A float weight `(out, in)` to another of the same shape, differentiable.

    Only what it gives is stored when a model is packed, so that a transform costs no bytes.
    """

    def __init__(self, shape: tuple[int, int]):
        super().__init__()
        self.shape = shape

    @abstractmethod
    def forward(self, weight: Tensor) -> Tensor:
        """The transformed weight."""

    def initialise(self, weight: Tensor) -> None:
        """Start from a float weight, so that `forward` gives it back to rounding where the transform can."""


@TRANSFORMS.register("unit-rows")
class UnitRows(WeightTransform):
    """Each row is a direction on the unit sphere times a learned length, `length * w / |w|`: weight normalisation
    (Salimans and Kingma, 2016). The lengths start as those of the rows."""

    roles = {"length": WEIGHTS}  # noqa: RUF012

    def __init__(self, shape: tuple[int, int]):
        super().__init__(shape)
        self.length = nn.Parameter(torch.ones(shape[0]))

    def forward(self, weight: Tensor) -> Tensor:
        size = torch.linalg.vector_norm(weight, dim=1)
        return weight * (self.length / size.clamp(min=torch.finfo(size.dtype).tiny)).unsqueeze(1)

    def initialise(self, weight: Tensor) -> None:
        self.length.copy_(torch.linalg.vector_norm(weight, dim=1))
