"""LQ-Nets: a learned basis, of which every level is a signed sum."""

import torch
from torch import Tensor

from ...core import SubgroupLayout, replace_forward
from ..encodings import LARGEST_SUMS, Basis
from .base import QUANTIZERS, WeightQuantizer
from .grid import Grid
from .qem import nearest, places, solved, sorted_levels
from .scan import scan_scale, to_scale

STARTS = (1.0, 0.7, 1.4)
"""Factors of the uniform grid that QEM starts from; the best of their ends is taken."""


@QUANTIZERS.register("basis")
class BasisQuantizer(WeightQuantizer):
    """Levels `+-v_1 +- ... +- v_K` at K bits, v of each sub-group and precision learned by QEM and never by gradients
    (Zhang et al., LQ-Nets, ECCV 2018); the gradient to the weight is straight-through everywhere.

    Once per optimizer step v moves by `1 - decay` to the least-squares solution for the signs that the weights have by
    then. It starts where QEM ends that begins at the uniform grid of least error, which is taken where nothing is
    better: the paper begins at a Gaussian's quartiles and ends in a worse optimum from 4 bits on. v is used, and
    stored, as whole numbers `n_j` with `sum n_j <= 127` times one scale, so that products of integers are exact (the
    paper's v are floats).

    Args:
        decay: of the moving average of v; the paper's is 0.9.
    """

    encoding = "basis"
    most_bits = max(LARGEST_SUMS)

    def __init__(
        self,
        layout: SubgroupLayout,
        candidates: tuple[int, ...],
        scale_dtype: torch.dtype = torch.float16,
        decay: float = 0.9,
    ):
        super().__init__(layout, candidates, scale_dtype)
        if not 0 <= decay <= 1:
            raise ValueError(f"decay must be from 0 to 1, got {decay}")
        self.decay = decay
        shape = layout.count, len(self.precisions)
        self.register_buffer("basis", torch.ones(*shape, max(self.precisions, default=1)))
        self.register_buffer("scale", torch.ones(shape))

    def candidate(self, weight: Tensor, bits: int) -> Tensor:
        scale, parts = self._stored(bits)
        levels = sorted_levels(parts)[0] * scale.unsqueeze(1)
        value = self.layout.lines(nearest(self.layout, self._lines(weight), levels))
        return replace_forward(weight, value.to(weight.dtype))

    @torch.no_grad()
    def encode(self, weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        scale, parts = self._stored(bits)
        levels, codes = sorted_levels(parts)
        place = places(self.layout, self._lines(weight), levels * scale.unsqueeze(1))
        found = self.layout.expand(codes).gather(1, place).to(torch.uint8)
        return found, torch.cat([scale.unsqueeze(1), parts], dim=1)

    @torch.no_grad()
    def calibrate(self, weight: Tensor, live: Tensor | None = None) -> None:
        lines, kept = self._lines(weight), self._kept(live)
        for k, bits in enumerate(self.precisions):
            grid = Grid.signed(bits, half_step=True, narrow=False)
            step = scan_scale(self.layout, weight.float(), grid, self.scale_dtype, live)
            uniform = step.unsqueeze(1) * 2.0 ** torch.arange(bits - 2, -2, -1, device=step.device)
            ends = [uniform, *(self._settled(lines, kept, factor * uniform) for factor in STARTS)]
            errors = torch.stack([self._error(lines, kept, k, bits, end) for end in ends])
            best = errors.argmin(0).reshape(1, -1, 1).expand(1, *uniform.shape)
            self._put(k, bits, torch.stack(ends).gather(0, best).squeeze(0))

    @torch.no_grad()
    def update(self, weight: Tensor) -> None:
        lines, kept = self._lines(weight), self._kept(self.live)
        for k, bits in enumerate(self.precisions):
            old = self.basis[:, k, :bits].float()
            self._put(k, bits, torch.lerp(solved(self.layout, lines, kept, old), old, self.decay))

    @torch.no_grad()
    def restore(self, bits: int, groups: Tensor, floats: Tensor) -> None:
        k = self.precisions.index(bits)
        self.scale[groups, k] = floats[:, 0].to(self.scale.dtype)
        self.basis[groups, k, :bits] = (floats[:, :1] * floats[:, 1:]).to(self.basis.dtype)

    def _settled(self, lines: Tensor, kept: Tensor | None, basis: Tensor, rounds: int = 30) -> Tensor:
        """Where QEM ends: solved until nothing changes."""
        for _ in range(rounds):
            found = solved(self.layout, lines, kept, basis)
            if torch.allclose(found, basis, rtol=1e-5, atol=0):
                break
            basis = found
        return basis

    def _error(self, lines: Tensor, kept: Tensor | None, k: int, bits: int, basis: Tensor) -> Tensor:
        """Squared error of each sub-group as it would be stored, `(groups,)`."""
        self._put(k, bits, basis)
        scale, parts = self._stored(bits)
        levels = sorted_levels(parts)[0] * scale.unsqueeze(1)
        gaps = (nearest(self.layout, lines, levels) - lines).square()
        return self.layout.reduce_lines((gaps if kept is None else gaps * kept).sum(1), "sum")

    def _put(self, k: int, bits: int, basis: Tensor) -> None:
        self.basis[:, k, :bits] = basis.to(self.basis.dtype)
        self.scale[:, k] = to_scale(basis.sum(1) / LARGEST_SUMS[bits], self.scale_dtype).to(self.scale.dtype)

    def _stored(self, bits: int) -> tuple[Tensor, Tensor]:
        """Scale `(groups,)` and whole parts `(groups, bits)`, as float32."""
        k = self.precisions.index(bits)
        scale = to_scale(self.scale[:, k].float(), self.scale_dtype).unsqueeze(1)
        parts = self.basis[:, k, :bits].float() / torch.where(scale == 0, torch.ones_like(scale), scale)
        return scale.squeeze(1), Basis.whole(parts)

    def _lines(self, weight: Tensor) -> Tensor:
        return self.layout.lines(weight.detach().float())

    def _kept(self, live: Tensor | None) -> Tensor | None:
        return None if live is None else self.layout.lines(live.expand(self.layout.shape))
