"""Second moments of layers' inputs and output gradients, padding excluded; layers with one input share its moment."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class Moment:
    """Sums over tokens: of `x x^T`, `(in, in)`; its diagonal `(in,)`; or of a table, how often a row was read."""

    total: Tensor | float = 0.0
    tokens: int = 0

    def add(self, total: Tensor, tokens: int) -> None:
        self.total, self.tokens = self.total + total, self.tokens + tokens


class MomentRecorder:
    """Hooks that collect moments while batches run forward and backward; used as a context manager.

    Query, key and value read one tensor, so they share one matrix: inputs are kept per set of layers that read them.

    Args:
        layers: name to linear layer or embedding table.
        diagonal: keep only diagonals.

    Attributes:
        mask: which tokens of the current batch are real; set before each forward pass.
        gradients: name to sum of squared output gradients over tokens, `(out,)`.
    """

    def __init__(self, layers: Mapping[str, nn.Module], diagonal: bool = False):
        self.layers, self.diagonal = layers, diagonal
        self.mask: Tensor | None = None
        self.gradients: dict[str, Tensor | float] = dict.fromkeys(layers, 0.0)
        self._moments: dict[frozenset[str], Moment] = {}
        self._last: tuple[Tensor, int, Moment] | None = None  # the last input, its version, its moment
        self._readers: set[str] = set()

    def __enter__(self) -> "MomentRecorder":
        self._hooks = [module.register_forward_hook(self._forward(name)) for name, module in self.layers.items()]
        return self

    def __exit__(self, *error) -> None:
        for hook in self._hooks:
            hook.remove()

    def inputs(self, name: str) -> Moment:
        """Moment of everything that the layer `name` read: once summed, layers with the same inputs get one tensor."""
        self.flush()
        parts = [moment for readers, moment in self._moments.items() if name in readers]
        if len(parts) == 1:
            return parts[0]
        return Moment(sum(part.total for part in parts), sum(part.tokens for part in parts))

    def flush(self) -> None:
        """Take in the last input; to be called after each forward pass."""
        if self._last is not None:
            last = self._last[2]
            self._moments.setdefault(frozenset(self._readers), Moment()).add(last.total, last.tokens)
        self._last, self._readers = None, set()

    def _forward(self, name: str):
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            if isinstance(module, nn.Embedding):
                ids = self._real(inputs[0], inputs[0].shape)
                counts = torch.bincount(ids.flatten(), minlength=module.num_embeddings).float()
                self._moments.setdefault(frozenset([name]), Moment()).add(counts, ids.numel())
            else:
                self._read(name, inputs[0])
            output.register_hook(lambda gradient: self._backward(name, gradient))

        return hook

    def _read(self, name: str, x: Tensor) -> None:
        if self._last is None or x is not self._last[0] or x._version != self._last[1]:
            self.flush()
            self._last = (x, x._version, self._second_moment(x))
        self._readers.add(name)

    def _backward(self, name: str, gradient: Tensor) -> None:
        self.gradients[name] = self.gradients[name] + gradient.detach().float().flatten(0, -2).square().sum(0)

    def _second_moment(self, x: Tensor) -> Moment:
        rows = self._real(x.detach(), x.shape[:-1]).reshape(-1, x.shape[-1]).float()
        return Moment(rows.square().sum(0) if self.diagonal else rows.T @ rows, len(rows))

    def _real(self, x: Tensor, tokens: torch.Size) -> Tensor:
        """What stands for real tokens; inputs of another shape (pooled, positions) are kept whole."""
        return x if self.mask is None or tokens != self.mask.shape else x[self.mask]
