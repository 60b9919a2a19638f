"""In how large a share of each class's examples a neuron matters."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...core import WeightSpec
from .passes import Batch


class PathwayRecorder:
    """Hooks on one matrix that count, per class, the examples (or tokens) in which each of its lines is critical.

    A line is an output neuron `i` with `t = |a_i dL/da_i|` (its pre-activation output a); in a layout of columns an
    input feature `j` with `t = |x_j (dL/da W)_j|`; in a table a row, critical where it is read, or of columns an output
    again. Of the tokens of an example the largest t counts, or the mean. Heads that label tokens count each token as an
    example. A layer called several times is averaged over its calls.

    Args:
        module: linear layer or table.
        spec: of its weight.
        classes: number of classes.
        critical: from `t (n, lines)` to bool.
        tokens: `"max"` or `"mean"`.

    Attributes:
        batch, labels: the current batch and its classes; set before each backward pass.
    """

    def __init__(self, module: nn.Module, spec: WeightSpec, classes: int, critical: Callable, tokens: str):
        self.module, self.critical, self.tokens = module, critical, tokens
        self.table, self.axis = isinstance(module, nn.Embedding), spec.layout.axis
        device, lines = module.weight.device, spec.layout.shape[self.axis]
        self.sums = torch.zeros(classes, lines, device=device)
        self.counts = torch.zeros(classes, device=device)
        self.batch: Batch | None = None
        self.labels: Tensor | None = None
        self.hook = module.register_forward_hook(self._forward)

    def importance(self) -> Tensor:
        """Sum over classes of each line's share of examples, `(lines,)` float64; classes without any add nothing."""
        return (self.sums / self.counts.clamp(min=1).unsqueeze(1)).sum(0).double()

    def _forward(self, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        x, a = inputs[0].detach(), output.detach()
        output.register_hook(lambda gradient: self._backward(x, a, gradient.detach()))

    def _backward(self, x: Tensor, a: Tensor, gradient: Tensor) -> None:
        if self.table and self.axis == 0:
            self._add_reads(x)
            return
        if self.axis == 1 and not self.table:
            a, gradient = x, gradient @ self.module.weight.detach()
        self._add(*self._examples((a * gradient).abs().float()))

    def _examples(self, taylor: Tensor) -> tuple[Tensor, Tensor]:
        """`t (n, lines)` and class `(n,)` of examples or tokens; what has no examples (a table of positions run through
        a projection) counts once, for all of them."""
        size = (len(self.batch), self.labels.shape[-1]) if self.labels.dim() == 2 else None
        if size is not None and taylor.shape[:-1] == size:
            return taylor.flatten(0, -2), self.labels.flatten()
        if self.labels.dim() == 1 and len(taylor) == len(self.labels) and taylor.dim() in (2, 3):
            return (taylor if taylor.dim() == 2 else self._over_tokens(taylor)), self.labels
        shared = self._pooled(taylor.flatten(0, -2))
        return shared.expand(self.labels.numel(), -1), self.labels.flatten()

    def _over_tokens(self, taylor: Tensor) -> Tensor:
        """`(batch, tokens, lines)` to `(batch, lines)`, over real tokens."""
        mask = self.batch.mask
        if mask is None or mask.shape != taylor.shape[:2]:
            return taylor.amax(1) if self.tokens == "max" else taylor.mean(1)
        taylor = taylor * mask.unsqueeze(2)
        return taylor.amax(1) if self.tokens == "max" else taylor.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)

    def _pooled(self, taylor: Tensor) -> Tensor:
        """`(n, lines)` to `(1, lines)`."""
        return taylor.amax(0, keepdim=True) if self.tokens == "max" else taylor.mean(0, keepdim=True)

    def _add(self, taylor: Tensor, labels: Tensor) -> None:
        known = labels >= 0
        critical, labels = self.critical(taylor[known]).float(), labels[known]
        self.sums.index_add_(0, labels, critical)
        self._count(labels)

    def _add_reads(self, ids: Tensor) -> None:
        """Rows that each example reads, each once; positions are the same for all examples."""
        examples = len(self.batch)
        ids = ids.reshape(-1, ids.shape[-1]).expand(examples, -1)
        mask = self.batch.mask
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None or mask.shape != ids.shape else mask
        labels = self.labels if self.labels.dim() == 2 else self.labels.unsqueeze(1).expand_as(ids)
        real = real & (labels >= 0)
        if self.labels.dim() == 1:
            owner = torch.arange(examples, device=ids.device).unsqueeze(1).expand_as(ids)
            read = torch.stack([owner[real], ids[real]], dim=1).unique(dim=0)
            self.sums.index_put_((self.labels[read[:, 0]], read[:, 1]), torch.ones(len(read), device=ids.device), True)
            self._count(self.labels[self.labels >= 0])
        else:
            self.sums.index_put_((labels[real], ids[real]), torch.ones(int(real.sum()), device=ids.device), True)
            self._count(labels[real])

    def _count(self, labels: Tensor) -> None:
        self.counts += torch.bincount(labels, minlength=len(self.counts))
