"""How good an assignment is, measured on the live model."""

import copy
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ..core import Assignment, MatrixAssignment, Pattern
from ..nn import MPQLinear, encoder_blocks
from ..nn.fitting import check_fits
from ..nn.held import using_weights
from ..nn.kept_blocks import KeptBlocks
from ..nn.matrix import QuantizedMatrix
from ..nn.walk import matrices, take_path
from ..weights import WeightMask, WeightQuantizer

Measure = Callable[[nn.Module], float]
Trial = Callable[[Assignment], float]
Key: TypeAlias = tuple[str, Pattern, int]
"""Matrix, pattern, and how often its weight was changed."""
Masked: TypeAlias = tuple[WeightMask | None, WeightQuantizer]
"""A mask, and the quantizer with scales for it."""
SMALL = 1 << 12
"""Numbers of a tensor that is compared by its values."""


class Judge:
    """Measures assignments of one model, lower is better.

    Args:
        model: quantized, trainable; its gates may be open.
        measure: how much worse than it should be a model is, such as its divergence from a teacher; it must leave the
            model as it is.
        trial: trains an assignment shortly, elsewhere, and measures the result; None where nothing is trained.
        progress: whether searches that ask it much show how far they are.
        keeps_blocks: whether encoder layers that are as in an earlier measure need not be run again: for a measure that
            runs the same batches every time, and reads nothing but the model's outputs.
    """

    def __init__(
        self,
        model: nn.Module,
        measure: Measure,
        trial: Trial | None = None,
        progress: bool = False,
        keeps_blocks: bool = False,
    ):
        self._model, self._measure, self._trial, self.progress = model, measure, trial, progress
        self._blocks = KeptBlocks(encoder_blocks(model)) if keeps_blocks else None
        self._masked: dict[Key, Masked] = {}  # while its weights stay as they are
        self._held: dict[str, tuple[Hashable, Tensor]] = {}

    def measure(self, model: nn.Module) -> float:
        """The measure of a model as it is, such as a sub-net."""
        return self._measure(model)

    def damage(self, assignment: Assignment) -> float:
        """The measure with the assignment's bits and activation bits, by paths through the gates, and with its N:M
        patterns: no weight is copied, and the model is as before afterwards.

        It is what the measure gives after `fix`, but for pruned rows, which are zero here, and not yet folded away.

        Raises:
            ValueError: for an assignment that `fix` refuses.
        """
        with taking(self._model, assignment, self._masked), self._holding(assignment):
            return self._measure(self._model)

    @contextmanager
    def _holding(self, assignment: Assignment) -> Iterator[None]:
        """Weights quantized once for all batches, and again only where the assignment before had others."""
        layers = {name: layer for name, layer in matrices(self._model) if isinstance(layer, MPQLinear)}
        for name, layer in layers.items():
            key = _settles(layer, assignment.matrices.get(name))
            if key is None or self._held.get(name, (None,))[0] != key:
                with torch.no_grad():
                    self._held[name] = key, layer.quantized_weight()
        held = {layer: lambda weight=self._held[name][1]: weight for name, layer in layers.items()}
        with using_weights(held), self._keeping(assignment):
            yield

    def _keeping(self, assignment: Assignment) -> AbstractContextManager:
        """Layers run only where they are not as they were in an earlier measure."""
        if self._blocks is None:
            return nullcontext()
        layers, states = dict(matrices(self._model)), {}
        for name, block in self._blocks.blocks.items():
            inside = {one: layer for one, layer in layers.items() if one.startswith(f"{name}.")}
            states[name] = _state(block, inside, assignment)
        return self._blocks.using(states)

    def trained_damage(self, assignment: Assignment) -> float:
        """The measure after a short training of the assignment.

        Raises:
            ValueError: where nothing is trained.
        """
        if self._trial is None:
            raise ValueError("this judge trains nothing; use damage, or give it a trial")
        return self._trial(assignment)


@contextmanager
def taking(model: nn.Module, assignment: Assignment, known: dict[Key, Masked] | None = None) -> Iterator[None]:
    """The model with an assignment's bits, activation bits and N:M patterns, in place, and afterwards as it was before.

    Args:
        known: masks and scales of earlier calls with this model; those of this one are added.

    Raises:
        ValueError: for an assignment that does not fit the model, or bits that are no candidates.
    """
    layers = dict(matrices(model))
    check_fits(model, layers, assignment)
    free = {name: layer for name, layer in layers.items() if not layer.spec.nested}  # nested codes stay as switched
    path = {name: _positions(name, layer, assignment.matrices[name].bits) for name, layer in free.items()}
    inputs = {name: bits for name, bits in assignment.activation_bits.items() if name in layers}
    before = {name: layer.program.gate.path for name, layer in layers.items()}
    patterns = {name: one.keep_of for name, one in assignment.matrices.items() if name in layers}
    with _input_bits(layers, inputs), _patterns(layers, patterns, {} if known is None else known):
        try:
            take_path(model, path)
            yield
        finally:
            for name, layer in layers.items():
                layer.program.gate.take(before[name])


def _settles(layer: QuantizedMatrix, given: MatrixAssignment | None) -> Hashable | None:
    """What a layer's quantized weight depends on; None where that is more than its own bits."""
    if given is None or layer.spec.nested or layer.program.gate.sets_width:
        return None
    return given.bits, given.keep_of, *(value._version for value in layer.parameters())


def _state(block: nn.Module, layers: Mapping[str, QuantizedMatrix], assignment: Assignment) -> Hashable | None:
    """What a block's function depends on, given its quantized matrices: their bits, small tensors by their values, and
    which large ones it has; None where that is not all."""
    chosen = [
        (_settles(layer, assignment.matrices.get(name)), assignment.activation_bits.get(name))
        for name, layer in layers.items()
    ]
    if any(weight is None for weight, _ in chosen):
        return None
    return *chosen, *map(_identity, (*block.parameters(), *block.buffers()))


def _identity(value: Tensor) -> Hashable:
    if value.numel() > SMALL:
        return value.data_ptr(), value._version
    return value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes()


def _positions(name: str, layer: QuantizedMatrix, bits: tuple[int, ...]) -> Tensor:
    """Where each sub-group's bits are among its gate's candidates, `(groups,)`."""
    candidates = layer.program.gate.candidates
    unknown = sorted(set(bits) - set(candidates))
    if unknown:
        raise ValueError(f"{name}: bits {unknown} are not among the candidates {candidates}")
    return torch.tensor([candidates.index(one) for one in bits])


@contextmanager
def _patterns(
    layers: Mapping[str, QuantizedMatrix], patterns: Mapping[str, Pattern | None], known: dict[Key, Masked]
) -> Iterator[None]:
    """Matrices with other masks, chosen and with scales as `fix` would, by copies of their quantizers."""
    before = {name: (layer.spec, layer.program.mask) for name, layer in layers.items() if layer.spec.patterns}
    quantizers = {name: layers[name].program.quantizer for name in before}
    try:
        for name, pattern in patterns.items():
            if name in before and pattern not in (None, layers[name].spec.keep_of):
                _take_pattern(layers[name], pattern, known, (name, pattern, layers[name].weight._version))
        yield
    finally:
        for name, mask in before.items():
            layers[name].program.quantizer = quantizers[name]
            layers[name].restore_mask(*mask)
            layers[name].program.gate.decide_for(quantizers[name])


def _take_pattern(layer: QuantizedMatrix, pattern: Pattern, known: dict[Key, Masked], key: Key) -> None:
    """Give a layer the mask of a pattern and a quantizer with scales for it, made at the first time."""
    program = layer.program
    if key in known:
        mask, program.quantizer = known[key]
        layer.restore_mask(layer.spec.with_pattern(pattern), mask)
        program.gate.decide_for(program.quantizer)
        return
    program.quantizer = copy.deepcopy(program.quantizer)
    layer.set_pattern(pattern)
    program.refresh()
    layer.calibrate()
    known[key] = program.mask, program.quantizer


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
