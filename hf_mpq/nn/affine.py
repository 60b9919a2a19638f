"""What a linear layer may do to its input first: a shift and a scale per channel, which weight and bias make up for."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

IDENTITY = {"scale": 1.0, "shift": 0.0}


class ChannelAffine(ABC):
    """Mixin of the trainable and the packed linear layer: both read `(x - input_shift) / input_scale`.

    With `W_tilde = W * scale` and `b_tilde = b + W shift` the function is that of the plain layer, but channels of very
    different ranges become alike before they are quantized together (Wei et al., 2023).
    """

    @abstractmethod
    def channel_values(self, name: str) -> Tensor | None:
        """`"scale"` or `"shift"` of each input, rounded to its stored type, `(in,)` float32; None without one."""

    @property
    def input_scale(self) -> Tensor | None:
        """What each input is divided by, `(in,)` float32; None: nothing."""
        return self.channel_values("scale")

    @property
    def input_shift(self) -> Tensor | None:
        """What is subtracted from each input first, `(in,)` float32; None: nothing."""
        return self.channel_values("shift")

    def normalised(self, x: Tensor) -> Tensor:
        """The input as it is quantized and multiplied, `(..., in)`, in the type of `x`."""
        return shift_and_scale(x, self.input_shift, self.input_scale)

    def without_affine(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Weight and bias that give the same function from the input as it comes."""
        scale, shift = self.input_scale, self.input_shift
        plain = weight.float() if scale is None else weight.float() / scale
        if shift is not None:
            bias = (bias.float() - plain @ shift).to(bias.dtype)
        return plain.to(weight.dtype), bias


def shift_and_scale(x: Tensor, shift: Tensor | None, scale: Tensor | None) -> Tensor:
    """`(x - shift) / scale` in at least float32, returned in the type of `x`; None leaves a step out."""
    if shift is None and scale is None:
        return x
    value = x.to(torch.promote_types(x.dtype, torch.float32))
    value = value if shift is None else value - shift
    return (value if scale is None else value / scale).to(x.dtype)
