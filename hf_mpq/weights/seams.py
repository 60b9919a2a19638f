"""Tensors that are worked on as one and taken apart again, without a copy in the backward pass."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Seam:
    """Tensors `(n, ...)` as one along the first axis, and the results of each.

    What no loss depends on has no gradient, as if each tensor had been worked on alone: an optimizer then leaves it.

    Args:
        sizes: of each tensor's results along the first axis.
    """

    def __init__(self, sizes: Sequence[int]):
        self.sizes = tuple(sizes)
        self.used = [False] * len(self.sizes)
        self._told: list[tuple[Seam, int]] = []

    def tell(self, other: "Seam", first: int = 0) -> None:
        """Let the results from `first` on be known, as many as it has, to what the inputs of another seam are."""
        self._told.append((other, first))

    def mark(self, place: int) -> None:
        """Note that a loss depends on one of the results."""
        self.used[place] = True
        for other, first in self._told:
            if first <= place < first + len(other.used):
                other.mark(place - first)

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """All of them, one after the other, differentiable."""
        return _Join.apply(self, *tensors)

    def split(self, joined: Tensor) -> tuple[Tensor, ...]:
        """The parts of what was made of the joined tensors, views of it; of several results, one call for each."""
        return _Split.apply(self, joined)


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx, seam: Seam, *tensors: Tensor) -> Tensor:
        ctx.seam, ctx.sizes = seam, [len(tensor) for tensor in tensors]
        return torch.cat(tensors)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        wanted = zip(gradient.split(ctx.sizes), ctx.seam.used, ctx.needs_input_grad[1:])
        return None, *(part if used and needed else None for part, used, needed in wanted)


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx, seam: Seam, joined: Tensor) -> tuple[Tensor, ...]:
        ctx.seam, ctx.rest = seam, joined.shape[1:]
        ctx.set_materialize_grads(False)
        return joined.split(seam.sizes)

    @staticmethod
    def backward(ctx, *gradients: Tensor | None):
        seam = ctx.seam
        for place, gradient in enumerate(gradients):
            if gradient is not None:
                seam.mark(place)
        like = next(gradient for gradient in gradients if gradient is not None)
        if any(gradient is None for gradient in gradients):
            zero = like.new_zeros(1, *ctx.rest)
            given = zip(gradients, seam.sizes)
            gradients = [zero.expand(size, *ctx.rest) if one is None else one for one, size in given]
        return None, torch.cat(tuple(gradients))
