"""GPTQ, every sub-group with its own precision and scale."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..nn import MPQLinear
from ..nn.running import evaluating
from .base import ROUNDERS, Rounder
from .checks import check_decided, check_examples, check_fixed_grids
from .column_solver import damped, solve_columns
from .grids import LevelGrid, can_round, write_values
from .moments import InputMoments
from .waves import all_waves


@ROUNDERS.register("gptq")
class GPTQRounder(Rounder):
    """Rounds each linear layer column by column and lets the columns that follow make up for the error (Frantar et al.,
    "GPTQ", ICLR 2023), layer after layer, with the inputs that the layers rounded before give. Scales stay as they are.

    Inputs that never occur in the examples are rounded to nearest (GPTQ zeroes them). Pruned and masked weights stay
    zero and are made up for like errors. A row whose error on the examples would be larger than with nearest rounding
    keeps nearest rounding. Tables are left at nearest rounding.

    Args:
        order: columns by falling diagonal of H (`"activation"`), or as they are (`"natural"`).
        damping: times the mean diagonal of H is added to it.
        asymmetric: come close to the float model's outputs, not to those of the float weights on the quantized model's
            inputs, so that the errors of earlier layers are made up for too (in the spirit of GPTAQ, Li et al., 2025):
            W is replaced by the ridge solution of the least squares problem first.
        progress: show a progress bar.
    """

    def __init__(
        self, order: str = "activation", damping: float = 0.01, asymmetric: bool = False, progress: bool = False
    ):
        if order not in ("natural", "activation"):
            raise ValueError(f"order must be 'natural' or 'activation', got {order!r}")
        self.order, self.damping, self.asymmetric, self.progress = order, damping, asymmetric, progress

    @torch.no_grad()
    def round(self, model: nn.Module, reference: nn.Module, batches: Sequence[Mapping]) -> None:
        check_examples(batches)
        check_decided(model)
        check_fixed_grids(model)
        reference = reference if self.asymmetric else None
        with evaluating(model, *([] if reference is None else [reference])):
            for wave in all_waves(model, reference, batches, "rounding", self.progress):
                layers = {name: layer for name, layer in wave.layers.items() if can_round(layer)}
                moments = {name: InputMoments(layer, self.asymmetric) for name, layer in layers.items()}
                for name, seen in wave.observations(layers):
                    moments[name].add(seen)
                for name, layer in layers.items():
                    if moments[name].tokens:
                        self._round_layer(layer, moments[name])

    def _round_layer(self, layer: MPQLinear, moments: InputMoments) -> None:
        grid, hessian, target = LevelGrid.of(layer), moments.hessian, moments.target
        if self.asymmetric:
            target = target + torch.linalg.solve(damped(hessian, self.damping), moments.residual.T).T.float()
        nearest = grid.nearest(layer.weight.float())
        chosen = solve_columns(target, hessian, grid, self.order == "activation", self.damping)
        better = _row_errors(chosen - target, hessian) <= _row_errors(nearest - target, hessian)
        write_values(layer, grid, torch.where(better.unsqueeze(1), chosen, nearest))

    def forward_passes(self, model: nn.Module, batches: Sequence[Mapping]) -> float:
        return len(batches) * (12.0 if self.asymmetric else 8.0)


def _row_errors(difference: Tensor, hessian: Tensor) -> Tensor:
    """`d H d^T` of each row, `(out,)` float64."""
    difference = difference.double()
    return ((difference @ hessian) * difference).sum(1)
