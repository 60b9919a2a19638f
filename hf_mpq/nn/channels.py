"""How a trainable layer takes a shift and a scale of its input into its weight and bias."""

from dataclasses import replace

import torch
from torch import Tensor

from ..core import from_bytes, to_bytes
from .affine import IDENTITY, ChannelAffine


class TrainableAffine(ChannelAffine):
    """Mixin of `MPQLinear`: the channels are kept as bytes, as they are packed, and do not train along."""

    def channel_values(self, name: str) -> Tensor | None:
        if name not in self.spec.affine:
            return None
        return from_bytes(self.get_buffer(f"input_{name}_values"), self._float_type)

    @torch.no_grad()
    def set_input_affine(self, scale: Tensor, shift: Tensor | None = None) -> None:
        """Read `(x - shift) / scale` from now on, in place of an earlier affine; the float function stays as it was.

        Both are rounded to their stored type first, and weight and bias make up for the rounded values. Inputs that are
        folded away keep shift 0 and scale 1. The scales of the weight no longer fit: call `calibrate` afterwards, and
        observe ranges of the input anew; low-rank factors are forgotten.

        Args:
            scale: `(in,)`, positive.
            shift: `(in,)`; None is 0. Needs a bias.

        Raises:
            ValueError: when a layer without a bias gets a shift, a scale is not positive, or the float weight is not
                the layer's own parameter as it is.
        """
        self._check_affine(scale, shift)
        self.remove_input_affine()
        given = {"scale": scale} | ({} if shift is None else {"shift": shift})
        self.spec = replace(self.spec, affine=tuple(given))
        self._open_affine()
        for name, values in given.items():
            self._store_channels(name, values)
        self.forget_dead_channels()
        if shift is not None:
            self.bias += self.kept_weight() @ self.input_shift
        self.weight *= self.input_scale

    @torch.no_grad()
    def remove_input_affine(self) -> None:
        """Read the input as it comes from now on; the float function stays as it was."""
        weight, _ = self.without_affine(self.weight, self.bias)
        _, bias = self.without_affine(self.kept_weight(), self.bias)
        self.weight.copy_(weight)
        if bias is not None:
            self.bias.copy_(bias)
        self.forget_low_rank()
        for name in self.spec.affine:
            del self._buffers[f"input_{name}_values"]
        self.spec = replace(self.spec, affine=())

    @torch.no_grad()
    def forget_dead_channels(self) -> None:
        """Give inputs that are folded away, and so are exact zeros, the identity: they stay exact zeros."""
        for name in self.spec.affine:
            values = self.channel_values(name).masked_fill(~self.program.live_columns, IDENTITY[name])
            self._store_channels(name, values)

    def _open_affine(self) -> None:
        """Buffers for what the spec names, as bytes, so that no cast changes them."""
        for name in self.spec.affine:
            if f"input_{name}_values" not in self._buffers:
                octets = torch.empty(self.in_features * self._float_type.itemsize, dtype=torch.uint8)
                self.register_buffer(f"input_{name}_values", octets.to(self.program.live_columns.device))

    def _store_channels(self, name: str, values: Tensor) -> None:
        if name == "scale":
            values = values.clamp(min=torch.finfo(self._float_type).tiny)
        self.get_buffer(f"input_{name}_values").copy_(to_bytes(values, self._float_type))

    def _check_affine(self, scale: Tensor, shift: Tensor | None) -> None:
        if shift is not None and self.bias is None:
            raise ValueError("a layer without a bias can only scale its input: there is nothing to make up for a shift")
        if not bool((scale > 0).all()):
            raise ValueError(f"the scale of an input must be positive, got one of {float(scale.min())}")
        if self.program.source.owns_weight or len(self.program.transforms):
            raise ValueError("the input can only be scaled where the float weight is the layer's own parameter")
