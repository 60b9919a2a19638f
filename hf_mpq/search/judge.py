"""How good an assignment is, measured on the live model."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..core import Assignment
from ..nn.fitting import check_fits
from ..nn.matrix import QuantizedMatrix
from ..nn.walk import matrices, take_path

Measure = Callable[[nn.Module], float]
Trial = Callable[[Assignment], float]


class Judge:
    """Measures assignments of one model, lower is better.

    Args:
        model: quantized, trainable; its gates may be open.
        measure: how much worse than it should be a model is, such as its divergence from a teacher; it must leave the
            model as it is.
        trial: trains an assignment shortly, elsewhere, and measures the result; None where nothing is trained.
        progress: whether searches that ask it much show how far they are.
    """

    def __init__(self, model: nn.Module, measure: Measure, trial: Trial | None = None, progress: bool = False):
        self._model, self._measure, self._trial, self.progress = model, measure, trial, progress

    def measure(self, model: nn.Module) -> float:
        """The measure of a model as it is, such as a sub-net."""
        return self._measure(model)

    def damage(self, assignment: Assignment) -> float:
        """The measure with the assignment's bits and activation bits, by paths through the gates: nothing is copied,
        and the model is as before afterwards.

        It is what the measure gives after `fix`, but for pruned rows, which are zero here, and not yet folded away.

        Raises:
            ValueError: for an assignment that `fix` refuses.
        """
        with taking(self._model, assignment):
            return self._measure(self._model)

    def trained_damage(self, assignment: Assignment) -> float:
        """The measure after a short training of the assignment.

        Raises:
            ValueError: where nothing is trained.
        """
        if self._trial is None:
            raise ValueError("this judge trains nothing; use damage, or give it a trial")
        return self._trial(assignment)


@contextmanager
def taking(model: nn.Module, assignment: Assignment) -> Iterator[None]:
    """The model with an assignment's bits and activation bits, in place, and afterwards as it was before.

    Raises:
        ValueError: for an assignment that does not fit the model, or bits that are no candidates.
    """
    layers = dict(matrices(model))
    check_fits(model, layers, assignment)
    free = {name: layer for name, layer in layers.items() if not layer.spec.nested}  # nested codes stay as switched
    path = {name: _positions(name, layer, assignment.matrices[name].bits) for name, layer in free.items()}
    inputs = {name: bits for name, bits in assignment.activation_bits.items() if name in layers}
    before = {name: layer.program.gate.path for name, layer in layers.items()}
    with _input_bits(layers, inputs):
        try:
            take_path(model, path)
            yield
        finally:
            for name, layer in layers.items():
                layer.program.gate.take(before[name])


def _positions(name: str, layer: QuantizedMatrix, bits: tuple[int, ...]) -> Tensor:
    """Where each sub-group's bits are among its gate's candidates, `(groups,)`."""
    candidates = layer.program.gate.candidates
    unknown = sorted(set(bits) - set(candidates))
    if unknown:
        raise ValueError(f"{name}: bits {unknown} are not among the candidates {candidates}")
    return torch.tensor([candidates.index(one) for one in bits])


@contextmanager
def _input_bits(layers: Mapping[str, QuantizedMatrix], bits: Mapping[str, int]) -> Iterator[None]:
    """Inputs with other activation bits, by copies of their quantizers: switching there and back would round ranges."""
    before = {name: layers[name].input_quantizer for name in bits}
    try:
        for name, quantizer in before.items():
            own = copy.deepcopy(quantizer) if quantizer.open_gate is None else quantizer
            layers[name].set_input(own.decided(bits[name]))
        yield
    finally:
        for name, quantizer in before.items():
            layers[name].set_input(quantizer)
