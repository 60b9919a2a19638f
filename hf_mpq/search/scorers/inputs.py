"""How much rounding the inputs of matrices hurts, where their bits are open."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ...core import ActivationSpec, PrecisionSpace
from ...nn import absolute_name
from ...weights import ActivationQuantizer
from .products import ProductRecorder

Inputs = Mapping[str, tuple[nn.Module, ActivationSpec]]


def open_inputs(model: nn.Module, space: PrecisionSpace) -> dict[str, tuple[nn.Module, ActivationSpec]]:
    """Name of each matrix whose input has a choice, to its float layer and what may be chosen."""
    specs = {name: spec.activation for name, spec in space.weights.items() if spec.activation is not None}
    searched = {name: spec for name, spec in specs.items() if spec.candidates and not spec.follows}
    return {name: (model.get_submodule(absolute_name(model, name)), spec) for name, spec in searched.items()}


def candidates_of(spec: ActivationSpec) -> list[ActivationQuantizer]:
    """A quantizer for each candidate, over the range of whatever it is given."""
    return [ActivationQuantizer.from_spec(spec.decided(bits)).eval() for bits in spec.candidates]


class InputRecorder(ProductRecorder):
    """Hooks that collect `<grad_n, dx_b>` of the input of each layer while batches run forward and backward: what each
    candidate changes in it, times the gradient of example n, summed over tokens and features. A context manager.

    What does not have the batch in front is summed over the examples too.

    Args:
        inputs: of `open_inputs`.

    Attributes:
        totals: name to summed squares of the products, `(1, candidates)` float64.
        products, sizes: name to their summed absolute values, and to those of the products of single features.
    """

    def __init__(self, inputs: Inputs):
        shapes = {name: (1, len(spec.candidates)) for name, (_, spec) in inputs.items()}
        super().__init__({name: (module,) for name, (module, _) in inputs.items()}, shapes)
        self.inputs = inputs
        self.products, self.sizes = (
            {name: torch.zeros_like(total) for name, total in self.totals.items()} for _ in range(2)
        )
        self._quantizers = {name: candidates_of(spec) for name, (_, spec) in inputs.items()}

    def finish(self) -> None:
        super().finish()
        for name, products in self._found.items():
            self.products[name] += products.double().abs().sum(0).cpu()

    def _forward(self, name: str):
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            x, weight = inputs[0].detach(), module.weight.detach()
            output.register_hook(lambda gradient: self._backward(name, x, gradient.detach() @ weight))

        return hook

    @torch.no_grad()
    def _backward(self, name: str, x: Tensor, gradient: Tensor) -> None:
        count = len(gradient) if len(gradient) == self._examples else 1
        changes = [one.rounded(x).float() - x.float() for one in self._quantizers[name]]
        products = torch.stack([(change * gradient).reshape(count, -1) for change in changes], dim=2)
        self.sizes[name] += products.abs().sum((0, 1)).double().cpu()
        self._add(name, products.sum(1, keepdim=True))


@contextmanager
def rounded_input(module: nn.Module, quantizer: ActivationQuantizer) -> Iterator[None]:
    """A layer that reads its input rounded."""
    hook = module.register_forward_pre_hook(lambda _, inputs: (quantizer.rounded(inputs[0]), *inputs[1:]))
    try:
        yield
    finally:
        hook.remove()
