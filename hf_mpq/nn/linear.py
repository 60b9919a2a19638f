"""The trainable linear layer."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import WeightSpec
from ..weights import ActivationQuantizer, Gate, OpenActivation, WeightProgram
from .affine import IDENTITY
from .channels import TrainableAffine
from .correction import TrainableLowRank
from .matrix import QuantizedMatrix
from .packed import PackedLinear


class MPQLinear(TrainableAffine, TrainableLowRank, QuantizedMatrix, nn.Linear):
    """An `nn.Linear` whose weight goes through a `WeightProgram` and whose input may be shifted, scaled and quantized.

    Attributes:
        input_quantizer: of the shifted and scaled input; None leaves it float.
        output_quantizer: of the output, for attention operands of families without an attention interface; None: float.
    """

    _feeder: tuple[WeightProgram, ...] = ()  # in a tuple: not a submodule

    @classmethod
    def from_linear(cls, linear: nn.Linear, spec: WeightSpec) -> "MPQLinear":
        """Take over the parameters of `linear` (the same objects, so ties hold)."""
        layer = cls(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        layer.weight, layer.bias = linear.weight, linear.bias
        layer._attach(spec)
        layer._open_affine()
        layer._open_low_rank()
        layer.set_input(_input_quantizer(spec))
        layer.output_quantizer = None
        return layer.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        x = self.normalised(self.passed_on(x))
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        y = F.linear(x, self.quantized_weight(), self.stored_bias())
        return y if self.output_quantizer is None else self.output_quantizer(y)

    def read_from(self, program: WeightProgram | None) -> None:
        """Read what the gate of this program passes on of its rows, which are the columns here; None reads all."""
        self._feeder = () if program is None else (program,)

    def passed_on(self, x: Tensor) -> Tensor:
        """What is read of `x` `(..., in)`, which the rows of another matrix made."""
        return self._feeder[0].pass_on(x) if self._feeder else x

    def read_columns(self) -> Tensor | None:
        """The share of each column that is read now, `(in,)`; None for all of them."""
        kept = self._feeder[0].kept_rows() if self._feeder else None
        return None if kept is None else kept[: self.in_features]

    def calibrate(self) -> None:
        """Set the scales from the columns that are read at all."""
        read = self.read_columns()
        self.program.calibrate(self.weight.float(), None if read is None else read > 0)

    def activation_quantizers(self) -> tuple[ActivationQuantizer, ...]:
        """Those of the input and the output, where there are any."""
        return tuple(q for q in (self.input_quantizer, self.output_quantizer) if q is not None)

    def set_input(self, quantizer: ActivationQuantizer | None) -> None:
        """Quantize the input by this from now on; None leaves it float."""
        self.input_quantizer = quantizer
        if quantizer is not None:
            quantizer.follow(self.program)

    def set_activation_bits(self, bits: int) -> None:
        """Quantize the input to `bits` from now on, over the range that it has; open ones are decided by that."""
        if self.input_gate is not None or bits != self.input_quantizer.bits:
            self.set_input(self.input_quantizer.decided(bits))
            self.spec = replace(self.spec, activation=self.input_quantizer.spec)

    @property
    def input_gate(self) -> Gate | None:
        return None if self.input_quantizer is None else self.input_quantizer.open_gate

    def initialise(self) -> None:
        """Also forget the shift and scale of the input and the low-rank factors: a float checkpoint has none."""
        for name in self.spec.affine:
            self._store_channels(name, torch.full((self.in_features,), IDENTITY[name]))
        self.forget_low_rank()
        super().initialise()
        if self.input_gate is not None:
            self.input_gate.initialise(None)

    @torch.no_grad()
    def take_back(self, packed: PackedLinear) -> None:
        """Take codes, channels and low-rank factors of a packed twin as they are, after its plain form was loaded."""
        for name in self.spec.affine:
            self._store_channels(name, packed.channel_values(name))
        if self.spec.rank:
            self.set_low_rank(*packed.factors())
        self.weight.copy_(packed.decode())
        self.program.start(self.weight.float())
        if self.bias is not None:
            self.bias.copy_(packed.bias)

    def coded_weight(self) -> Tensor:
        """The weight that the codes stand for, without the low-rank correction, `(out, in)` float32."""
        return self.program(self.weight.float())

    def quantized_weight(self) -> Tensor:
        return self.corrected(self.coded_weight()).to(self.weight.dtype)

    def kept_weight(self) -> Tensor:
        """The float weight with masked weights, and sub-groups at 0 bits, at zero: `(out, in)` float32."""
        return self.float_weight() * self._kept_lines(0).unsqueeze(1) * self._kept_lines(1)

    def kept_rows(self) -> Tensor:
        """Rows that are not pruned, `(out,)` bool."""
        return self._kept_lines(0)

    def live_inputs(self) -> Tensor:
        """Columns that are neither pruned nor folded away, `(in,)` bool."""
        return self._kept_lines(1) & self.program.live_columns

    def _kept_lines(self, axis: int) -> Tensor:
        """Rows (axis 0) or columns (axis 1) with more than 0 bits; all, where the sub-groups are cut the other way."""
        layout = self.spec.layout
        if layout.axis != axis:
            return torch.ones(layout.shape[axis], dtype=torch.bool, device=self.weight.device)
        return layout.expand(self.program.gate.derive() > 0)

    @property
    def _float_type(self) -> torch.dtype:
        return getattr(torch, self.spec.float_dtype)


def _input_quantizer(spec: WeightSpec) -> ActivationQuantizer | None:
    if spec.activation is None:
        return None
    if spec.activation.candidates:
        return OpenActivation(spec.activation)
    return ActivationQuantizer.from_spec(spec.activation)
