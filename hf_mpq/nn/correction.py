"""Two thin factors whose product is added to the weight that the codes stand for."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..core import from_bytes, to_bytes


class LowRank(ABC):
    """Mixin of the trainable and the packed linear layer: both multiply with `W_hat + B A`.

    Adding the product to the weight costs `out * in * rank` once a pass, whatever the tokens, and leaves one weight to
    read for everything that asks for it.
    """

    @abstractmethod
    def factors(self) -> tuple[Tensor, Tensor] | None:
        """`B (out, rank)` and `A (rank, in)`, rounded to their stored type, float32; None without a correction."""

    def corrected(self, weight: Tensor) -> Tensor:
        """`weight` `(out, in)` with the correction added."""
        factors = self.factors()
        if factors is None or weight.is_meta:  # a skeleton whose buffers are partly there already
            return weight
        return weight + factors[0] @ factors[1]


class TrainableLowRank(LowRank):
    """Mixin of `MPQLinear`: the factors are kept as bytes, as they are packed, and do not train along."""

    def factors(self) -> tuple[Tensor, Tensor] | None:
        rank = self.spec.rank
        if not rank:
            return None
        rows, columns = (
            from_bytes(self.get_buffer(name), self._float_type) for name in ("low_rank_rows", "low_rank_columns")
        )
        rows, columns = rows.view(-1, rank), columns.view(rank, -1)
        return rows * self.kept_rows().unsqueeze(1), columns * self.live_inputs()

    @torch.no_grad()
    def set_low_rank(self, rows: Tensor, columns: Tensor) -> None:
        """Add `rows @ columns` to the weight from now on; pruned rows and dead columns stay at zero.

        Args:
            rows: `(out, rank)`, of the rank that the spec names.
            columns: `(rank, in)`.
        """
        self.get_buffer("low_rank_rows").copy_(to_bytes(rows, self._float_type))
        self.get_buffer("low_rank_columns").copy_(to_bytes(columns, self._float_type))

    def forget_low_rank(self) -> None:
        """Correct nothing."""
        if self.spec.rank:
            self.set_low_rank(*(torch.zeros(sizes) for sizes in self._factor_shapes()))

    def _factor_shapes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        rows, columns = self.spec.layout.shape
        return (rows, self.spec.rank), (self.spec.rank, columns)

    def _open_low_rank(self) -> None:
        for name, (rows, columns) in zip(("low_rank_rows", "low_rank_columns"), self._factor_shapes()):
            if self.spec.rank:
                octets = torch.zeros(rows * columns * self._float_type.itemsize, dtype=torch.uint8)
                self.register_buffer(name, octets.to(self.program.live_columns.device))
