"""The levels that each weight of a layer may take, and writing chosen ones into its float master."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..nn import MPQLinear


class LevelGrid(NamedTuple):
    """Weight `(level + half) * step` for integer levels `low` to `high`, and zero where `kept` is False.

    Each is broadcastable to `(out, in)`; pruned sub-groups, masked and folded weights are not kept.
    """

    step: Tensor
    low: Tensor
    high: Tensor
    half: Tensor
    kept: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, layer: MPQLinear) -> "LevelGrid":
        """Grid of a layer whose precisions are decided, under its scales as they are."""
        program, layout = layer.program, layer.spec.layout
        found = program.quantizer.line_parameters(layer.weight.float(), program.gate())
        lines, chosen = found.grid, found.probabilities > 0
        turned = [layout.lines(part) for part in (found.step, lines.low, lines.high, lines.half, chosen)]
        keep = program.keep()
        return cls(*turned[:4], turned[4] if keep is None else turned[4] & keep)

    def levels(self, weight: Tensor) -> Tensor:
        """Nearest levels, as floats."""
        return self.clamp(torch.round(self.exact(weight)))

    def exact(self, weight: Tensor) -> Tensor:
        """Levels before rounding."""
        return weight / torch.where(self.step == 0, torch.ones_like(self.step), self.step) - self.half

    def clamp(self, level: Tensor) -> Tensor:
        """Levels that there are."""
        return torch.clamp(level, self.low, self.high)

    def values(self, level: Tensor) -> Tensor:
        """Weights of levels, exactly as forward has them."""
        return torch.where(self.kept, (level + self.half) * self.step, 0.0)

    def nearest(self, weight: Tensor) -> Tensor:
        """Weights at their nearest level."""
        return self.values(self.levels(weight))


def can_round(layer: MPQLinear) -> bool:
    """Whether some sub-group of the layer is not pruned."""
    return bool((layer.program.gate.derive() > 0).any())


def target_weight(layer: MPQLinear) -> Tensor:
    """The float weight to come close to, `(out, in)` float32: pruned and masked weights as they were, so that others
    can make up for them; folded columns are zero, because a bias makes up for them already."""
    return layer.weight.detach().float() * layer.program.live_columns


@torch.no_grad()
def write_values(layer: MPQLinear, grid: LevelGrid, values: Tensor) -> None:
    """Put chosen weights `(out, in)`, all on `grid`, into the float master; what is not kept stays as it was."""
    layer.weight.copy_(torch.where(grid.kept, values, layer.weight.float()))
