"""Rules for the gradient of rounding, beside straight-through."""

from abc import ABC, abstractmethod
from math import atanh

import torch
from torch import Tensor

from ..core import Registry, Written, name_and_options

ROUNDING_GRADIENTS: Registry[type["RoundingGradient"]] = Registry("rounding gradient")


class RoundingGradient(ABC):
    """Scales a gradient by how far rounding moved the value: `g (1 + delta sign(g) h(e))` with `e = x - round(x)`, in
    levels.

    A value gets a larger one that has, on its way against the gradient, farther to go to where its level changes. With
    `delta=0` it is straight-through, bit for bit. The sign is that of each backward pass: under another number of
    micro-batches or processes the sum differs, by `delta` of it at most.

    Args:
        delta: how much, at least 0.

    Raises:
        ValueError: for a delta below zero.
    """

    def __init__(self, delta: float = 5e-3):
        if delta < 0:
            raise ValueError(f"delta of a rounding gradient must not be below zero, got {delta}")
        self.delta = delta

    def __call__(self, gradient: Tensor, error: Tensor) -> Tensor:
        """The gradient that is passed on.

        Args:
            gradient: of what was rounded.
            error: `x - round(x)`, -1/2 to 1/2, of its shape.
        """
        return gradient * (1 + self.delta * torch.sign(gradient) * self.height(error))

    @abstractmethod
    def height(self, error: Tensor) -> Tensor:
        """`h(e)`, an odd function."""


@ROUNDING_GRADIENTS.register("ewgs")
class ElementWiseScaling(RoundingGradient):
    """`h(e) = e` (EWGS, Lee et al., CVPR 2021), which FDQ takes for weights (Schaefer et al., 2022)."""

    def height(self, error: Tensor) -> Tensor:
        return error


@ROUNDING_GRADIENTS.register("inverse-tanh")
class InverseTanh(RoundingGradient):
    """`h(e) = artanh(1.9 e) / (2 artanh(0.95))`, steep near the borders between levels: FDQ's for activations (Schaefer
    et al., 2022)."""

    def height(self, error: Tensor) -> Tensor:
        return torch.atanh(1.9 * error) * (0.5 / atanh(0.95))


def rounding_gradient(written: Written | None) -> RoundingGradient | None:
    """The rule of an option, a part such as `{"name": "ewgs", "delta": 1e-3}`; None is straight-through.

    Raises:
        ValueError: for an unknown name or option.
    """
    if written is None:
        return None
    name, options = name_and_options("gradient", written, {})
    return ROUNDING_GRADIENTS.make(name, options=options)
