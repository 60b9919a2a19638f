"""Low precisions taken away for a while from the weights that they unsettle."""

from collections.abc import Iterator
from math import cos, floor, pi

import torch
from torch import Tensor, nn

from ...nn.matrix import QuantizedMatrix
from ...nn.walk import matrices
from ...weights import WeightProgram
from ..strategies.base import Progress
from .base import SCHEDULES, Schedule

Block = list[QuantizedMatrix]
"""A matrix, or several that are tied."""


@SCHEDULES.register("turbulence")
class Turbulence(Schedule):
    """The bit-width scheduler of one-shot weight coupling (RFQuant, CVPR 2024; as in the authors' code).

    Every few steps the sub-groups are put in order of their turbulence (see `turbulence`). The first `floor(rho L)` of
    `L` lose the lowest of their candidates until the next time, and all others have all of theirs. `rho` falls along a
    cosine over the rest of the stage, from the end of the warm-up, before which nothing is taken away.

    Tied sub-groups are one, of the mean turbulence; those with a single candidate do not count. What is taken away at
    the end of the stage stays away.

    Args:
        share: `(first, last)` rho, or one number for both; 0 takes nothing away.
        begin: of the warm-up's end, a share of the stage.
        every: share of the stage between two times.
        late: share of the stage from which on they are `late_every` apart.

    Raises:
        ValueError: for shares that are none.
    """

    def __init__(
        self,
        share: tuple[float, float] | float = (0.5, 0.2),
        begin: float = 0.04,
        every: float = 0.02,
        late: float = 0.72,
        late_every: float = 0.1,
    ):
        first, last = (share, share) if isinstance(share, int | float) else share
        if not all(0 <= one <= 1 for one in (first, last, begin, late)) or min(every, late_every) <= 0:
            raise ValueError(
                f"share, begin and late are shares from 0 to 1, every and late_every above 0; got {share}, {begin}, "
                f"{late}, {every} and {late_every}"
            )
        self.first, self.last, self.begin, self.late = first, last, begin, late
        self.every, self.late_every = every, late_every

    def prepare(self, model: nn.Module) -> None:
        """Raises ValueError when there is no sub-group that a candidate could be taken away from."""
        if not any(True for _ in _limited(model)):
            raise ValueError(
                "turbulence takes candidates away: quantize with several, and with MPQConfig(gate='sampled')"
            )

    def before_step(self, model: nn.Module, progress: Progress) -> None:
        if self.is_due(progress):
            self._take_away(model, self.share_at(progress))

    def is_due(self, progress: Progress) -> bool:
        """Whether sets of candidates are made anew before a step."""
        begin, late = (round(share * progress.steps) for share in (self.begin, self.late))
        apart = [max(round(share * progress.steps), 1) for share in (self.every, self.late_every)]
        first, every = (begin, apart[0]) if progress.step < late else (max(begin, late), apart[1])
        return progress.step >= begin and (progress.step - first) % every == 0

    def share_at(self, progress: Progress) -> float:
        """rho before a step."""
        begin = round(self.begin * progress.steps)
        time = (progress.step - begin) / max(progress.steps - begin, 1)
        return self.last + (self.first - self.last) * (1 + cos(pi * min(max(time, 0.0), 1.0))) / 2

    @torch.no_grad()
    def metrics(self, model: nn.Module) -> dict[str, float]:
        """`frozen`: share of the sub-groups that lack a candidate."""
        allowed = [block[0].program.gate.allowed.all(1) for block in _limited(model)]
        return {"frozen": 1 - float(torch.cat(allowed).float().mean())} if allowed else {}

    @torch.no_grad()
    def _take_away(self, model: nn.Module, share: float) -> None:
        blocks = list(_limited(model))
        values = torch.cat([torch.stack([turbulence(one) for one in block]).mean(0).cpu() for block in blocks])
        frozen = torch.zeros(len(values), dtype=torch.bool)
        frozen[values.argsort(descending=True, stable=True)[: floor(share * len(values) + 1e-9)]] = True
        for block, here in zip(blocks, frozen.split([one[0].program.gate.groups for one in blocks])):
            for layer in block:
                allowed = torch.ones_like(layer.program.gate.allowed)
                allowed[:, 0] = ~here.to(allowed.device)
                layer.program.gate.allow(allowed)


def turbulence(layer: QuantizedMatrix) -> Tensor:
    """How unsettled each sub-group is, `(groups,)`: the mean over the precisions that it is allowed now of `phi_b / b`,
    with `phi_b` the share of weights that are within an eighth of a step of a boundary between two levels at `b` bits.

    Beyond the last levels there is no boundary. What a mask or a folded row holds at zero does not count.

    Raises:
        ValueError: for a quantizer without even steps.
    """
    program = layer.program
    shares = near_boundaries(program, layer.float_weight())  # (groups, precisions)
    allowed = program.gate.allowed[:, program.gate.candidates.count(0) :].to(shares.device)
    bits = torch.tensor(program.quantizer.precisions, dtype=shares.dtype, device=shares.device)
    return (allowed * shares / bits).sum(1) / allowed.sum(1).clamp(min=1)


def near_boundaries(program: WeightProgram, weight: Tensor) -> Tensor:
    """`phi_b` of each sub-group at each precision, `(groups, precisions)` float32."""
    keep, layout = program.keep(), program.layout
    free = layout.lines(torch.ones_like(weight) if keep is None else keep.expand_as(weight).to(weight.dtype))
    found = []
    for bits in program.quantizer.precisions:
        near = (program.quantizer.distances(weight, bits).abs() > 0.375) * free
        found.append(layout.reduce_lines(near.sum(1), "sum") / layout.reduce_lines(free.sum(1), "sum").clamp(min=1))
    return torch.stack(found, dim=1)


def _limited(model: nn.Module) -> Iterator[Block]:
    """Matrices that candidates can be taken away from, tied ones together."""
    blocks: dict[tuple[str, str], Block] = {}
    for name, layer in matrices(model):
        gate = layer.program.gate
        if gate.searching and gate.limited and len(gate.candidates) > 1:
            tie = layer.spec.tie
            blocks.setdefault(("matrix", name) if tie is None else ("tie", tie), []).append(layer)
    yield from blocks.values()
