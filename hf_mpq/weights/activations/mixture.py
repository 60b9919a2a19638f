"""An activation rounded to several grids and mixed, as one operation that computes them again for its gradient."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..compilation import compiled_when_large
from .base import ActivationGrid, nonzero

Grids = Sequence[ActivationGrid]


@compiled_when_large
def mixture_forward(x: Tensor, shares: Tensor, grids: Grids) -> Tensor:
    """Weighted sum of `x` on each grid, in the type of `x`; `shares` `(grids,)`."""
    total = _on_grid(x, grids[0]).mul_(shares[0])
    for k in range(1, len(grids)):
        total.addcmul_(_on_grid(x, grids[k]), shares[k])
    return total.to(x.dtype)


@compiled_when_large
def share_gradients(x: Tensor, gradient: Tensor, grids: Grids) -> Tensor:
    """Inner product of the gradient with `x` on each grid: `(grids,)`."""
    upstream = gradient.float()
    return torch.stack([_on_grid(x, grid).mul_(upstream).sum() for grid in grids])


def _on_grid(x: Tensor, grid: ActivationGrid) -> Tensor:
    """As `ActivationQuantizer.rounded`, in float32."""
    value = torch.div(x.float(), nonzero(grid.step)).round_()
    torch.maximum(value, grid.low - grid.zero, out=value)
    torch.minimum(value, grid.high - grid.zero, out=value)
    return value.mul_(grid.step)


class ActivationMixture(torch.autograd.Function):
    """`ActivationMixture.apply(x, shares, grids)`: see `mixture_forward`.

    The gradient to `x` is straight-through, as that of each of them: the shares add to one. That of a share is the
    inner product of the upstream gradient with `x` on its grid.
    """

    @staticmethod
    def forward(ctx, x: Tensor, shares: Tensor, grids: Grids) -> Tensor:
        ctx.bounds = [(grid.low, grid.high) for grid in grids]
        ctx.save_for_backward(x, *(tensor for grid in grids for tensor in (grid.step, grid.zero)))
        return mixture_forward(x.detach(), shares.detach(), grids)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, *constants = (tensor.detach() for tensor in ctx.saved_tensors)
        pairs = zip(constants[::2], constants[1::2], ctx.bounds)
        grids = [ActivationGrid(step, zero, low, high) for step, zero, (low, high) in pairs]
        to_shares = share_gradients(x, gradient.detach(), grids) if ctx.needs_input_grad[1] else None
        return gradient, to_shares, None
