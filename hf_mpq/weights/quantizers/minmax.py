"""AQ-BERT's quantizer: the range is the smallest and largest weight of the sub-group, now."""

import torch
from torch import Tensor

from ...core import constant, to_stored_type
from .base import QUANTIZERS
from .grid import Grid, GridQuantizer


@QUANTIZERS.register("minmax")
class MinMaxQuantizer(GridQuantizer):
    """Equations 7 and 8 of AQ-BERT (Zhao et al., IJCAI 2021): `q = (2^b - 1) / (max - min)`,
    `code = round(q (a - min))`, value `code / q + min`; straight-through everywhere, nothing learned.

    The paper prints the value without `+ min`, an evident omission. With `scale_dtype=torch.float32` it is exact; in
    float16 step and minimum are rounded as they will be stored. A constant sub-group has step 0 and code 0.
    """

    encoding = "affine"
    by_group = ()

    def _extremes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Smallest and largest live weight of each sub-group, `(groups, 1)`; 0 where none is live."""
        if self.live is not None:
            return self._extreme(weight, "amin"), self._extreme(weight, "amax")
        low, high = torch.aminmax(self.layout.lines(weight), dim=1)
        return tuple(
            self.layout.reduce_lines(values, how).unsqueeze(1) for values, how in ((low, "amin"), (high, "amax"))
        )

    def _extreme(self, weight: Tensor, how: str) -> Tensor:
        """One of them, of a masked weight."""
        outside = torch.inf if how == "amin" else -torch.inf
        found = self.layout.reduce(weight.masked_fill(~self.live.to(weight.device), outside), how)
        return found.masked_fill(found.isinf(), 0.0).unsqueeze(1)

    def grid(self, bits: int) -> Grid:
        return Grid.unsigned(bits)

    def steps(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self._extremes(weight.detach())
        levels = constant(tuple(2.0**bits - 1 for bits in self.precisions), weight.dtype, weight.device)
        found = to_stored_type(torch.cat([(high - low) / levels, low], 1), self.scale_dtype)
        step, low = found.split([len(self.precisions), 1], dim=1)
        return step, low.expand_as(step)
