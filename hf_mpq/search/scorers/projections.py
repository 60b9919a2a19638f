"""Inner products of each example's gradient with the changes that candidates make, sub-group by sub-group."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ...core import WeightSpec, track
from .base import rounding_errors
from .products import ProductRecorder

UNSEEN = 0.5
"""How often a row of a table counts as read beyond what was seen."""
CHUNK = 1 << 21
"""Entries of examples' gradients at a time, so that they stay in cache."""
WIDE_CHUNK = 1 << 24
"""The same in bfloat16, whose products want to be large."""


class ProjectionRecorder(ProductRecorder):
    """Hooks that collect `E_n[<grad_n, dW_b>^2]` while batches run forward and backward; used as a context manager.

    The gradient of a linear layer's weight is made for each example, summed over its tokens, and multiplied with every
    change; so further candidates cost little. What does not have the batch in front (positions) is summed over the
    examples too: their gradients are independent with mean zero, so products between them vanish on average.

    What a decoder tied to a table makes of it is added to what reading the table makes, example by example. Under
    autocast in bfloat16 these products, too, are in it.

    Args:
        layers: name to linear layer or table, with its spec.
        readers: name to the modules that read its weight.
        progress: show a bar while the scales of the candidates are found.

    Attributes:
        totals: name to summed squares, `(groups, candidates)` float64.
    """

    def __init__(
        self,
        layers: Mapping[str, tuple[nn.Module, WeightSpec]],
        readers: Mapping[str, Sequence[nn.Module]],
        progress: bool = False,
    ):
        shapes = {name: (spec.layout.count, len(spec.candidates)) for name, (_, spec) in layers.items()}
        super().__init__(readers, shapes)
        self.layers = layers
        self.changes = {
            name: rounding_errors(module.weight, spec)
            for name, (module, spec) in track(layers.items(), "scales", disable=not progress)
        }
        self._squares = {name: 0.0 for name in layers}  # of gradients behind a table, summed over tokens: (in,)
        self._tokens = dict.fromkeys(layers, 0)

    def unseen(self, name: str) -> Tensor:
        """For a table: what every row would add if it had been read `UNSEEN` times more, `(groups, candidates)`."""
        spec, mean = self.layers[name][1], self._squares[name] / max(self._tokens[name], 1)
        columns = [spec.layout.reduce(change.square() * mean, "sum") for change in self.changes[name]]
        return UNSEEN * torch.stack(columns, dim=1).double().cpu()

    def _forward(self, name: str):
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            x = inputs[0].detach()
            table = isinstance(module, nn.Embedding)
            quick = output.dtype == torch.bfloat16 and module.weight.dtype == torch.float32
            dtype = torch.bfloat16 if quick else torch.float32
            output.register_hook(lambda gradient: self._backward(name, table, x, gradient.detach().to(dtype)))

        return hook

    @torch.no_grad()
    def _backward(self, name: str, table: bool, x: Tensor, gradient: Tensor) -> None:
        spec = self.layers[name][1]
        if table:
            self._squares[name] = self._squares[name] + gradient.flatten(0, -2).square().sum(0)
            self._tokens[name] += int((gradient.abs().amax(-1) > 0).sum())  # padding has no gradient
        count = len(gradient) if len(gradient) == self._examples else 1
        gradient = gradient.reshape(count, -1, gradient.shape[-1])
        if table:
            found = torch.stack([_table_products(spec, x, gradient, one) for one in self.changes[name]], dim=2)
        else:
            x = x.to(gradient.dtype).reshape(count, -1, x.shape[-1])
            found = _linear_products(spec, x, gradient, self._stacked(name, gradient.dtype))
        self._add(name, found)

    def _stacked(self, name: str, dtype: torch.dtype) -> Tensor:
        """All changes of a matrix, `(lines, others, candidates)`; of what is no table they are kept like that only."""
        module, spec = self.layers[name]
        changes = self.changes[name]
        if isinstance(changes, Tensor):
            return changes.to(dtype)
        stacked = torch.stack([one if spec.layout.axis == 0 else one.T for one in changes], dim=2).to(dtype)
        if not isinstance(module, nn.Embedding):
            self.changes[name] = stacked
        return stacked


def _linear_products(spec: WeightSpec, x: Tensor, gradient: Tensor, stacked: Tensor) -> Tensor:
    """`(count, groups, candidates)`; `x` `(count, tokens, in)`, `gradient` `(count, tokens, out)`, `stacked` changes
    `(lines, others, candidates)`."""
    lines, others = (gradient, x) if spec.layout.axis == 0 else (x, gradient)
    size = max(1, (CHUNK if gradient.dtype == torch.float32 else WIDE_CHUNK) // stacked[:, :, 0].numel())
    parts = []
    for some_lines, some_others in zip(lines.split(size), others.split(size)):
        own = torch.bmm(some_lines.transpose(1, 2), some_others)  # each example's gradient
        parts.append(torch.bmm(own.transpose(0, 1), stacked))
    return spec.layout.reduce_lines(torch.cat(parts, dim=1).float(), "sum").transpose(0, 1)


def _table_products(spec: WeightSpec, ids: Tensor, gradient: Tensor, change: Tensor) -> Tensor:
    """`(count, groups)`; `ids` `(count, tokens)`, `gradient` `(count, tokens, width)`."""
    count, layout, ids = len(gradient), spec.layout, ids.reshape(len(gradient), -1)
    products = change[ids] * gradient
    if layout.axis == 1:
        return layout.reduce_lines(products.sum(1).T, "sum").T
    groups = layout.index(ids.device)[ids]
    return gradient.new_zeros(count, layout.count).scatter_add_(1, groups, products.sum(-1))
