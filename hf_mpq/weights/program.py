"""The way of one weight: source, transforms, mask, and the quantizer under the gate."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core import Usage, WeightSpec
from .choice import Choice
from .gates import GATES
from .masks import MASKS
from .quantizers import QUANTIZERS
from .sources import SOURCES
from .transforms import TRANSFORMS


@dataclass(frozen=True)
class PrecisionCodes:
    """What is stored of the sub-groups at one precision.

    Attributes:
        codes: `(lines, length)` uint8.
        floats: `(groups, floats)` float32.
        keep: `(lines, length)` bool where a mask drops weights, else None.
    """

    codes: Tensor
    floats: Tensor
    keep: Tensor | None


class WeightProgram(nn.Module):
    """Ordered small modules from stored parameters to the weight used in forward.

    Args:
        spec: the resolved choices for this weight.

    Attributes:
        live_columns: `(in,)` bool; columns that some live row feeds. Dead ones are zero, neither calibrated nor stored.
        rounding: off in float stages, where the masked float weight is used as it is; not saved.
    """

    rounding = True

    def __init__(self, spec: WeightSpec):
        super().__init__()
        shape, dtype = spec.layout.shape, getattr(torch, spec.scale_dtype)
        self.spec = spec
        self.source = SOURCES.make(
            spec.source, spec.layout, spec.candidates, scale_dtype=dtype, options=spec.source_options
        )
        self.transforms = nn.ModuleDict(
            {name: TRANSFORMS.make(name, shape, options=options) for name, options in spec.transforms.items()}
        )
        self.mask = MASKS.make(spec.mask, shape, options=spec.mask_options) if spec.mask else None
        self.quantizer = QUANTIZERS.make(
            spec.quantizer, spec.layout, spec.candidates, scale_dtype=dtype, options=spec.quantizer_options
        )
        self.gate = GATES.make(spec.gate, spec.layout.count, spec.candidates, options=spec.gate_options)
        self.gate.decide_for(self.quantizer)
        self._check_planes()
        self.register_buffer("live_columns", torch.ones(shape[1], dtype=torch.bool))
        self._all_live = True
        self.register_load_state_dict_post_hook(_look_again)

    @property
    def layout(self):
        """The sub-groups."""
        return self.spec.layout

    def refresh(self) -> None:
        """Look again at the buffers, after they were loaded or changed."""
        self._all_live = bool(self.live_columns.all())
        self.quantizer.live = self.keep()

    def keep(self) -> Tensor | None:
        """Weights that are not held at zero, broadcastable to `(out, in)` bool; None when all are free."""
        if self.mask is None:
            return None if self._all_live else self.live_columns.unsqueeze(0)
        return self.mask.keep if self._all_live else self.mask.keep & self.live_columns

    def float_weight(self, weight: Tensor, masked: bool = True, choice: Choice | None = None) -> Tensor:
        """The float weight that is quantized, `(out, in)`; with `masked=False` also what is held at zero. A source that
        a gate selects planes of gives those of a `choice`, and all without one."""
        value = self.source(weight, choice)
        for transform in self.transforms.values():
            value = transform(value)
        keep = self.keep() if masked else None
        return value if keep is None else value * keep

    def forward(self, weight: Tensor) -> Tensor:
        """The weight used in forward, differentiable, `(out, in)`."""
        if not self.rounding:
            return self.float_weight(weight)
        choice, keep = self.gate(), self.keep()
        value = self.quantizer(self.float_weight(weight, choice=choice), choice)
        return value if keep is None else value * keep

    def rows(self, weight: Tensor, rows: Tensor) -> Tensor:
        """Rows of what `forward` gives, computed alone where the quantizer can: `(len(rows), in)`.

        Negative ones, and those beyond the last, are an IndexError.
        """
        if not self.rounding or self.keep() is not None:
            return self(weight).index_select(0, rows)
        choice = self.gate()
        return self.quantizer.rows(self.float_weight(weight, choice=choice), choice, rows)

    def _check_planes(self) -> None:
        if not self.gate.selects_planes:
            return
        if not self.source.has_planes:
            raise ValueError(f"gate={self.spec.gate!r} selects bit planes: choose source='planes'")
        if len(self.transforms):
            names = ", ".join(self.transforms)
            raise ValueError(f"bit planes are the codes, which transforms would change: leave out {names}")

    @torch.no_grad()
    def initialise(self, weight: Tensor) -> None:
        """Set the source, the gate's start and the mask from a float weight; every column is live."""
        self.live_columns.fill_(True)
        self.refresh()
        self.start(weight)
        self.gate.initialise(self.spec.bits)
        if self.mask is not None:
            self.mask.initialise(self.float_weight(weight, masked=False))
        self.refresh()

    @torch.no_grad()
    def start(self, weight: Tensor) -> None:
        """Set source and transforms from a float weight, so that `float_weight` gives it."""
        self.source.initialise(weight)
        value = self.source(weight)
        for transform in self.transforms.values():
            transform.initialise(value)
            value = transform(value)

    @torch.no_grad()
    def revisit_mask(self, weight: Tensor, share: float = 1.0) -> None:
        """Choose the mask anew from all of the float weight; see `WeightMask.revisit`. Scales stay as they are."""
        self.mask.revisit(self.float_weight(weight, masked=False), share)
        self.refresh()

    @torch.no_grad()
    def select_planes(self, weight: Tensor, index: Tensor) -> Tensor:
        """The weight `(out, in)` whose gate selects the planes of a candidate for each sub-group, and the scales of
        those set: then the weight is on the quantizer's grid, as exact as its codes.

        Args:
            index: positions in the candidates, `(groups,)`.
        """
        self.gate.take(index)
        choice = self.gate()
        self.gate.take(None)
        steps = self.source.scale * 2.0**choice.window.lowest
        for position, bits in enumerate(self.spec.candidates):
            groups = (index == position).nonzero().flatten()
            if bits > 0 and len(groups):
                self.quantizer.restore(bits, groups, steps[groups].unsqueeze(1))
        return self.source(weight, choice)

    @torch.no_grad()
    def calibrate(self, weight: Tensor, columns: Tensor | None = None) -> None:
        """Set the scales from what is live, and of that from some columns alone where `(in,)` bool names them."""
        keep = self.keep()
        if columns is not None:
            keep = columns.unsqueeze(0) if keep is None else keep & columns
        self.quantizer.calibrate(self.float_weight(weight), keep)
        self.gate.decide_for(self.quantizer)

    @torch.no_grad()
    def update(self, weight: Tensor) -> None:
        """Once per optimizer step, outside autograd."""
        self.quantizer.update(self.float_weight(weight))
        self.gate.update()

    @torch.no_grad()
    def set_mask(self, spec: WeightSpec, weight: Tensor) -> None:
        """Take the mask of another spec of this weight, chosen from a float weight; an equal one stays as it is. Scales
        stay as they are."""
        same = (spec.mask, spec.mask_options) == (self.spec.mask, self.spec.mask_options)
        self.spec = spec
        if not same:
            made = MASKS.make(spec.mask, spec.layout.shape, options=spec.mask_options) if spec.mask else None
            self.mask = made and made.to(weight.device)
            if made is not None:
                made.initialise(self.float_weight(weight, masked=False))
            self.refresh()

    def kept_rows(self) -> Tensor | None:
        """The share of each row's output that is passed on to what reads it, `(out,)`; None for all of them."""
        kept = self.gate.kept() if self.rounding else None
        return None if kept is None else self.layout.expand(kept)

    def pass_on(self, x: Tensor) -> Tensor:
        """What is passed on of what was made of the outputs `(..., out)`, or of those of a shard: `x` without a gate
        that keeps some in part."""
        return self.gate.pass_on(x, self.layout) if self.rounding else x

    def usage(self) -> Usage:
        """What the gate expects to use."""
        return self.gate.usage()

    @torch.no_grad()
    def encode(self, weight: Tensor) -> dict[int, PrecisionCodes]:
        """What is stored, by precision ascending: of each precision the lines of its sub-groups, in order, and of those
        lines the live columns."""
        bits, value, masks = self.gate.derive(), self.float_weight(weight).float(), self.stored_masks()
        line_bits = self.layout.expand(bits)
        stored = {}
        for precision in sorted(set(bits.tolist()) - {0}):
            codes, floats = self.quantizer.encode(value, precision)
            codes = self._stored_part(codes, line_bits == precision)
            stored[precision] = PrecisionCodes(codes, floats[bits == precision], masks.get(precision))
        return stored

    def stored_masks(self) -> dict[int, Tensor]:
        """What a mask keeps of the lines at each precision, ascending, `(lines, length)` bool; empty without a mask."""
        if self.mask is None:
            return {}
        bits, keep = self.gate.derive(), self.layout.lines(self.mask.keep & self.live_columns)
        line_bits = self.layout.expand(bits)
        return {one: self._stored_part(keep, line_bits == one) for one in sorted(set(bits.tolist()) - {0})}

    def _stored_part(self, lines: Tensor, chosen: Tensor) -> Tensor:
        return lines[chosen][:, self.live_columns] if self.layout.axis == 0 else lines[chosen]


def _look_again(program: WeightProgram, missing) -> None:
    if not program.live_columns.is_meta:
        program.refresh()
