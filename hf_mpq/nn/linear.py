"""The trainable linear layer."""

import torch.nn.functional as F
from torch import Tensor, nn

from ..core import WeightSpec
from ..weights import ActivationQuantizer
from .matrix import QuantizedMatrix


class MPQLinear(QuantizedMatrix, nn.Linear):
    """An `nn.Linear` whose weight goes through a `WeightProgram` and whose input may be quantized.

    Attributes:
        input_quantizer: of the input; None leaves it float.
        output_quantizer: of the output, for attention operands of families without an attention interface; None: float.
    """

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, spec: WeightSpec, transforms: tuple[nn.Module, ...] = ()
    ) -> "MPQLinear":
        """Take over the parameters of `linear` (the same objects, so ties hold)."""
        layer = cls(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        layer.weight, layer.bias = linear.weight, linear.bias
        layer._attach(spec, transforms)
        layer.input_quantizer = ActivationQuantizer.from_spec(spec.activation) if spec.activation else None
        layer.output_quantizer = None
        return layer.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        y = F.linear(x, self.quantized_weight(), self.stored_bias())
        return y if self.output_quantizer is None else self.output_quantizer(y)

    def activation_quantizers(self) -> tuple[ActivationQuantizer, ...]:
        """Those of the input and the output, where there are any."""
        return tuple(q for q in (self.input_quantizer, self.output_quantizer) if q is not None)
