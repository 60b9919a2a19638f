"""What collects products of gradients and changes, example by example."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn


class ProductRecorder(ABC):
    """Hooks that collect a product for each example and choice while batches run forward and backward. A context
    manager.

    Args:
        readers: name to the modules that read what is recorded.
        shapes: name to `(groups, candidates)`.

    Attributes:
        totals: name to summed squares of the products, `(groups, candidates)` float64.
    """

    def __init__(self, readers: Mapping[str, Sequence[nn.Module]], shapes: Mapping[str, tuple[int, int]]):
        self.readers = readers
        self.totals = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}
        self._examples = 0
        self._found: dict[str, Tensor] = {}

    def __enter__(self):
        self._hooks = [
            module.register_forward_hook(self._forward(name))
            for name, modules in self.readers.items()
            for module in modules
        ]
        return self

    def __exit__(self, *error) -> None:
        for hook in self._hooks:
            hook.remove()

    def begin(self, examples: int) -> None:
        """Before each backward pass."""
        self._examples, self._found = examples, {}

    def finish(self) -> None:
        """After each backward pass."""
        for name, products in self._found.items():
            self.totals[name] += products.double().square().sum(0).cpu()

    @abstractmethod
    def _forward(self, name: str) -> Callable[[nn.Module, tuple, Tensor], None]:
        """The forward hook of what reads a name; it sees that `_add` is given the products in the backward pass."""

    def _add(self, name: str, products: Tensor) -> None:
        """`products` `(examples or 1, groups, candidates)` of one backward pass."""
        self._found[name] = self._found.get(name, 0) + products
