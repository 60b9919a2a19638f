"""Gamma migration: the gain of a normalisation moves into the layers behind it."""

from torch import nn

from ..nn import MPQLayerNorm
from .base import OUTLIERS, InputAffine, OutlierRule
from .inputs import InputGroup


@OUTLIERS.register("gamma")
class GammaMigration(OutlierRule):
    """`s = |gamma|`, `z = 0` for every layer that reads a normalisation's output (Wei et al., 2022).

    The paper takes gamma out of the normalisation and multiplies the weights behind it and the residual branch by it.
    Here the division stands in the layers that read the output, so the normalisation and the residual branch stay as
    they are; what is quantized, `x_hat + beta / gamma` up to its sign, and the float function are the same. It pays
    where gamma makes outliers; a channel with a gamma near zero becomes one.
    """

    def affine(self, group: InputGroup) -> InputAffine | None:
        return None if group.norm is None else InputAffine(_gain(group.norm))


def _gain(norm: nn.LayerNorm):
    """Absolute gain that the normalisation uses, 1 where it is 0, `(in,)`."""
    weight = norm.affine(norm.position)[0] if isinstance(norm, MPQLayerNorm) else norm.weight
    gain = weight.detach().float().abs()
    return gain.masked_fill(gain == 0, 1.0)
