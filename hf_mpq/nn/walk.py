"""What is done to every quantized layer of a model."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..core import Assignment, MatrixAssignment, Pattern, Usage, input_of
from ..weights import GATES, ActivationQuantizer, Gate, WeightProgram
from ..weights.joined import usages_of
from .attention import AttentionQuantizers, QuantizedDropout
from .fitting import check_fits
from .folding import fold
from .matrix import QuantizedMatrix
from .naming import relative_modules
from .packed import PackedMatrix
from .precision import set_precision as set_precision


def matrices(model: nn.Module, kind: type | tuple[type, ...] = QuantizedMatrix) -> Iterator[tuple[str, nn.Module]]:
    """Relative name and layer of every quantized matrix, each layer once."""
    yield from relative_modules(model, kind)


def update_quantizers(model: nn.Module) -> None:
    """To be called once after each optimizer step: moving ranges, bases and gates take in what they observed."""
    for module in model.modules():
        if isinstance(module, QuantizedMatrix):
            module.update()
            for quantizer in module.activation_quantizers():
                quantizer.update()
        elif isinstance(module, AttentionQuantizers | QuantizedDropout):
            module.update()


def set_rounding(model: nn.Module, rounding: bool) -> nn.Module:
    """Switch the rounding of weights and activations off, for a float stage, or on again, in place; returns the model.

    Without it a layer uses its float weight, masked, and its input as it is. What is packed is always rounded. Where it
    comes on again after training, `calibrate_weights` and `calibrate_activations` set scales and ranges anew.
    """
    for module in model.modules():
        if isinstance(module, WeightProgram | ActivationQuantizer):
            module.rounding = rounding
    return model


def calibrate_weights(model: nn.Module) -> None:
    """Set the scales of every quantized matrix anew from its float weight."""
    for _, layer in matrices(model):
        layer.calibrate()


def take_path(model: nn.Module, path: Mapping[str, Tensor]) -> nn.Module:
    """Set the path through the gates, in place: the candidate of each sub-group by the relative name of its matrix, of
    open inputs by `input_of` it; gates that are not named choose for themselves. Returns the model.

    Raises:
        ValueError: for a matrix that is not there, or a path that does not fit its gate.
    """
    found = gates(model)
    unknown = sorted(path.keys() - found.keys())
    if unknown:
        raise ValueError(f"a path names {unknown[0]!r}, which is no quantized matrix of this model")
    for name, gate in found.items():
        gate.take(path.get(name))
    return model


def gates(model: nn.Module) -> dict[str, Gate]:
    """Every gate: those of weights by the relative name of the matrix, then those of open inputs by `input_of` it."""
    layers = dict(matrices(model))
    inputs = {input_of(name): layer.input_gate for name, layer in layers.items() if layer.input_gate is not None}
    return {name: layer.program.gate for name, layer in layers.items()} | inputs


def is_open(model: nn.Module) -> bool:
    """Whether any precision is still to be decided, of weights or inputs."""
    return any(layer.is_open for _, layer in matrices(model))


def usages(model: nn.Module) -> dict[str, Usage]:
    """What every gate expects to use, by the relative name of its matrix; differentiable."""
    layers = dict(matrices(model))
    found = usages_of([layer.program.gate for layer in layers.values()])
    return {name: _usage(layer, usage) for (name, layer), usage in zip(layers.items(), found)}


def _usage(layer: QuantizedMatrix, usage: Usage) -> Usage:
    if layer.input_gate is None:
        return usage
    inputs = layer.input_gate.usage()
    return replace(usage, activation_bits=inputs.bits[0], activation_probabilities=inputs.probabilities[0])


def reluctances(model: nn.Module) -> dict[str, Tensor]:
    """How little each open gate wants each of its candidates, by its name in `gates`: `(groups, candidates)`."""
    return {name: gate.reluctance() for name, gate in gates(model).items() if gate.searching}


def prefixes(model: nn.Module) -> dict[str, list[tuple[Tensor, float]]]:
    """What may be decided, of every gate that decides its sub-groups together, by its name in `gates`: their bits,
    `(groups,)`, with how little it wants them."""
    found = {name: gate.prefixes() for name, gate in gates(model).items() if gate.searching}
    return {name: several for name, several in found.items() if several}


def served_precisions(model: nn.Module) -> tuple[int, ...]:
    """Precisions that `set_precision` can switch a trainable model to, ascending; none where it is not nested."""
    served = [set(layer.spec.nested) for _, layer in matrices(model) if layer.spec.nested]
    return tuple(sorted(set.intersection(*served))) if served else ()


def derive(model: nn.Module) -> Assignment:
    """The assignment that the model has, or that its gates would give now."""
    found, activations = {}, {}
    for name, module in matrices(model, (QuantizedMatrix, PackedMatrix)):
        packed = isinstance(module, PackedMatrix)
        bits = module.group_bits() if packed else module.program.gate.derive()
        nested = module.stored.served if packed else module.spec.nested
        found[name] = MatrixAssignment(
            tuple(bits.tolist()), keep_of=(module if packed else module.spec).keep_of, nested=nested
        )
        quantizer = getattr(module, "input_quantizer", None)
        if quantizer is not None:
            activations[name] = quantizer.bits
    return Assignment(found, activations)


def fix(model: nn.Module, assignment: Assignment) -> nn.Module:
    """Replace every open gate by the assignment's bits and fold away what is pruned, in place; returns the model.

    A matrix that takes another N:M pattern has its mask chosen from its float weight, and scales for it. Inputs
    get the assignment's activation bits, over the ranges that they have; open ones of which it says nothing the
    likeliest. `derive` then gives the assignment, with the model's own value where it said nothing.

    Raises:
        ValueError: when the assignment lacks a matrix or names another, has another number of sub-groups, N:M
            pattern or nested precisions, bits that the layer's quantizer has no candidate for, activation bits of a
            float input, a shape, or keeps rows that were folded away; the model is then as it was.
    """
    layers = dict(matrices(model))
    check_fits(model, layers, assignment)
    before = {
        name: (layer.program.gate, layer.program.source, layer.weight.requires_grad, layer.program.live_columns.clone())
        for name, layer in layers.items()
    }
    masks = {name: (layer.spec, layer.program.mask) for name, layer in layers.items()}
    widths = [layer for layer in layers.values() if layer.program.gate.sets_width and layer.bias is not None]
    biases = [layer.bias.detach().clone() for layer in widths]
    exact = {name for name, layer in layers.items() if layer.selects_planes}
    scales = {name: copy.deepcopy(layers[name].program.quantizer.state_dict()) for name in exact}
    gates = {name: _fixed_gate(name, layer, assignment) for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            layer.decide(gates[name])
        anew = set_patterns(layers, {name: matrix.keep_of for name, matrix in assignment.matrices.items()})
        fold(model)
    except ValueError:
        for name, layer in layers.items():
            layer.program.gate, layer.program.source = before[name][:2]
            layer.weight.requires_grad_(before[name][2])
            layer.restore_mask(*masks[name])
        for layer, bias in zip(widths, biases):
            layer.bias.data.copy_(bias)
        for name in exact:
            layers[name].program.quantizer.load_state_dict(scales[name])
        raise
    for name, layer in layers.items():
        changed = name in anew or not torch.equal(before[name][3], layer.program.live_columns)
        if name not in exact and changed:
            layer.calibrate()
        if name in assignment.activation_bits or layer.input_gate is not None:
            layer.set_activation_bits(assignment.activation_bits.get(name, layer.input_quantizer.bits))
    return model


def set_patterns(layers: Mapping[str, QuantizedMatrix], patterns: Mapping[str, Pattern | None]) -> set[str]:
    """Decide the N:M pattern of every layer that has a choice, in place: the given one, or that which it has now.
    Returns the names of those that have another mask than before."""
    chosen = {name: layer for name, layer in layers.items() if layer.spec.patterns}
    return {name for name, layer in chosen.items() if layer.set_pattern(patterns.get(name) or layer.spec.keep_of)}


def close_gates(
    model: nn.Module,
    state: Mapping[str, Tensor],
    input_bits: Mapping[str, int],
    patterns: Mapping[str, Pattern | None] | None = None,
) -> bool:
    """Make every layer whose precision, input or pattern is open here, and decided in a state, one that can load it.

    Args:
        state: of the whole model.
        input_bits: of decided inputs by the relative name of their matrix, which no tensor says.
        patterns: N:M patterns of a model in which they are decided, as `input_bits`.

    Returns:
        Whether there was such a layer.
    """
    closed = bool(patterns)
    if patterns:
        set_patterns(dict(matrices(model)), patterns)
    for name, layer in matrices(model):
        if layer.input_gate is not None and name in input_bits:
            layer.set_activation_bits(input_bits[name])
            closed = True
    for full, layer in model.named_modules():
        if isinstance(layer, QuantizedMatrix) and layer.program.gate.searching:
            gate, prefix = GATES["fixed"](layer.spec.layout.count, layer.spec.candidates), f"{full}.program.gate."
            if all(prefix + name in state for name in gate.state_dict()):
                if layer.selects_planes:
                    layer.end_planes()
                layer.program.gate, closed = gate.to(layer.weight.device), True
    return closed


def _fixed_gate(name: str, layer: QuantizedMatrix, assignment: Assignment) -> Gate:
    spec = layer.spec
    if spec.nested:
        return layer.program.gate
    gate = GATES["fixed"](spec.layout.count, spec.candidates).to(layer.weight.device)
    gate.initialise(assignment.matrices[name].bits)
    return gate
