"""What a layer's inputs leave behind for choosing its codes, summed batch by batch."""

import torch
from torch import Tensor
from torch.nn.functional import linear

from ..nn import MPQLinear
from .grids import target_weight
from .waves import Observation


class InputMoments:
    """Sums over the real tokens that a layer reads.

    Args:
        layer: whose inputs they are.
        residual: also gather how its outputs with float weights differ from the float model's.

    Attributes:
        tokens: how many.
    """

    def __init__(self, layer: MPQLinear, residual: bool):
        rows, columns = layer.weight.shape
        options = {"dtype": torch.float64, "device": layer.weight.device}
        self.target = target_weight(layer)
        self.bias = layer.stored_bias()
        self.tokens = 0
        self._squares = torch.zeros(columns, columns, **options)
        self._residual = torch.zeros(rows, columns, **options) if residual else None

    def add(self, seen: Observation) -> None:
        """Take in one call."""
        x = seen.inputs.float()
        self.tokens += len(x)
        self._squares += (x.T @ x).double()
        if self._residual is not None:
            bias = None if self.bias is None else self.bias.float()
            missing = seen.wanted.float() - linear(x, self.target, bias)
            self._residual += (missing.T @ x).double()

    @property
    def hessian(self) -> Tensor:
        """`2/N sum x x^T`, `(in, in)` float64."""
        return self._squares * (2 / self.tokens)

    @property
    def residual(self) -> Tensor | None:
        """`2/N sum (y - W x - b) x^T` with y the float model's output, `(out, in)` float64; None if not gathered."""
        return None if self._residual is None else self._residual * (2 / self.tokens)
