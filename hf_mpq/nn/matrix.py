"""What the trainable layers share: a float weight, its program, and parameters rounded to their stored type."""

from collections import Counter

import torch
from torch import Tensor, nn

from ..core import MaskStorage, MatrixStorage, Pattern, WeightSpec, to_stored_type
from ..format import stored_mask
from ..weights import ENCODINGS, SOURCES, ActivationQuantizer, Gate, WeightMask, WeightProgram


class QuantizedMatrix(nn.Module):
    """Mixin of the layers that hold a `weight` `(out, in)` and a `program`.

    Attributes:
        live_rows: `(out,)` bool; rows whose output is not folded away. The bias of a dead row is zero for good.
    """

    program: WeightProgram

    def _attach(self, spec: WeightSpec) -> None:
        """Add the program; to be called once the weight is there."""
        self.spec = spec
        self.program = WeightProgram(spec)
        if spec.bias:
            self.register_buffer("live_rows", torch.ones(spec.layout.shape[0], dtype=torch.bool))
        if self.program.source.owns_weight:
            self.weight.requires_grad_(False)
            self.register_state_dict_pre_hook(_refresh_weight)

    @torch.no_grad()
    def decide(self, gate: Gate) -> None:
        """Take a gate whose precisions are decided in place of the open one. Where that selects bit planes, they become
        the float weight: on the grid of those precisions, whose scales are set.

        Args:
            gate: a fixed one over the same candidates.
        """
        if self.program.gate.sets_width and self.bias is not None:  # what is not kept passes nothing on
            self.bias *= self.spec.layout.expand(gate.derive() > 0)
        if self.selects_planes:
            self.weight.copy_(self.program.select_planes(self.weight.float(), gate().index))
            self.end_planes()
        self.program.gate = gate

    def end_planes(self) -> None:
        """Make the float weight the layer's own parameter, which learns as its planes did."""
        self.weight.requires_grad_(any(one.requires_grad for one in self.program.source.parameters()))
        own = SOURCES.make("float-master", self.spec.layout, self.spec.candidates)
        self.program.source = own.train(self.training)

    @property
    def selects_planes(self) -> bool:
        """Whether an open gate selects bit planes of the weight."""
        return self.program.gate.selects_planes

    @property
    def nested(self) -> tuple[int, ...]:
        """Precisions that one set of codes serves; empty for others."""
        return self.spec.nested

    @property
    def used_precision(self) -> int:
        """Of nested codes, the precision that forward uses."""
        return self.program.gate.active or self.spec.nested[-1]

    def set_precision(self, bits: int) -> None:
        """Use nested codes at `bits`; raises ValueError when that precision is not served."""
        self.program.gate.set_precision(bits)

    def quantized_weight(self) -> Tensor:
        """The weight used in forward, differentiable, `(out, in)`, in the type of `weight`."""
        return self.program(self.weight.float()).to(self.weight.dtype)

    @torch.no_grad()
    def weight_at(self, bits: int) -> Tensor:
        """Of nested codes, the weight that forward uses at another precision, `(out, in)` float32."""
        used = self.used_precision
        self.set_precision(bits)
        try:
            return self.program(self.weight.float())
        finally:
            self.set_precision(used)

    def float_weight(self, masked: bool = True) -> Tensor:
        """The weight before quantization, `(out, in)` float32; with `masked=False` also what is held at zero."""
        return self.program.float_weight(self.weight.float(), masked)

    def stored_bias(self) -> Tensor | None:
        """The bias rounded to its stored type, zero where the row is folded away; None without a bias."""
        if self.bias is None:
            return None
        return to_stored_type(self.bias, getattr(torch, self.spec.float_dtype)) * self.live_rows

    def activation_quantizers(self) -> tuple[ActivationQuantizer, ...]:
        """Those that the layer owns."""
        return ()

    @property
    def input_gate(self) -> Gate | None:
        """What yields the bits of its input while they are open."""
        return None

    @property
    def is_open(self) -> bool:
        """Whether a precision, the bits of the input or a pattern are still to be decided."""
        return self.program.gate.searching or self.input_gate is not None or self.spec.pattern_is_open

    def set_pattern(self, pattern: Pattern) -> bool:
        """Decide what is kept of N:M sparsity, and choose the mask where that is another than now; tells whether it is.
        Scales stay as they are."""
        before, self.spec = self.spec, self.spec.with_pattern(pattern)
        self.program.set_mask(self.spec, self.weight.float())
        return self.spec.mask_options != before.mask_options

    def restore_mask(self, spec: WeightSpec, mask: WeightMask | None) -> None:
        """Put back a spec and its mask, as they were before `set_pattern`."""
        self.spec = self.program.spec = spec
        self.program.mask = mask
        self.program.refresh()

    def initialise(self) -> None:
        """Set everything that a float checkpoint does not have, except the scales."""
        if self.spec.bias:
            self.live_rows.fill_(True)
        self.program.initialise(self.weight.float())

    def calibrate(self) -> None:
        """Set the scales."""
        self.program.calibrate(self.weight.float())

    def update(self) -> None:
        """Once per optimizer step, outside autograd."""
        self.program.update(self.weight.float())

    def extra_repr(self) -> str:
        """Shape, sub-groups and bits: the candidates while they are open, else how many sub-groups have each."""
        rows, columns = self.spec.layout.shape
        bits, decided = self.program.gate.candidates, self.program.gate.derive()
        if not self.program.gate.searching and not decided.is_meta:
            bits = dict(sorted(Counter(decided.tolist()).items()))
        return f"shape=({rows}, {columns}), groups={self.spec.layout.count}, bits={bits}"

    def storage(self) -> MatrixStorage:
        """How this matrix would be packed now."""
        bits = self.program.gate.derive().tolist()
        spec, encoding = self.spec, self.program.quantizer.encoding
        floats = {b: ENCODINGS[encoding].floats(b, spec.nested) for b in set(bits) - {0}}
        live = int(self.program.live_columns.sum())
        return MatrixStorage.of(
            spec.layout,
            bits,
            floats,
            encoding=encoding,
            nested=spec.nested,
            mask=self._stored_mask(),
            length=live if spec.layout.axis == 0 else spec.layout.line_length,
            bias=int(self.live_rows.sum()) if spec.bias else None,
            scale_dtype=spec.scale_dtype,
            float_dtype=spec.float_dtype,
            affine=spec.affine,
            rank=spec.rank,
        )

    def _stored_mask(self) -> MaskStorage | None:
        mask = self.program.mask
        return None if mask is None else stored_mask(self.program.stored_masks(), mask.stored_as)


@torch.no_grad()
def _refresh_weight(module: QuantizedMatrix, prefix: str, keep_vars: bool) -> None:
    whole = not any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers()))
    if whole and module.program.source.owns_weight:
        module.weight.copy_(module.float_weight(masked=False))
