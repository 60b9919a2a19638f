"""Does an assignment fit a model? Asked before anything is changed: every field is applied, or refused."""

from collections.abc import Mapping

from torch import nn

from ..core import Assignment, MatrixAssignment, pattern_word
from .families import family_of
from .linear import MPQLinear
from .matrix import QuantizedMatrix


def check_fits(model: nn.Module, layers: Mapping[str, QuantizedMatrix], assignment: Assignment) -> None:
    """Compare an assignment with the quantized layers of a model, by relative name.

    What it leaves open (no activation bits, no N:M pattern) stays as the model has it, and matrices of other
    heads are passed over.

    Raises:
        ValueError: for a field that would not be applied.
    """
    check_shape(assignment)
    family = family_of(model)
    heads = family.projections if family is not None else ()
    unknown = [
        name
        for name in {**assignment.matrices, **assignment.activation_bits}
        if name not in layers and name not in heads
    ]
    if unknown:
        raise ValueError(
            f"the assignment names {unknown[0]!r}, which is no quantized matrix of this "
            f"{type(model).__name__}; derive it from a model that is quantized alike"
        )
    for name, layer in layers.items():
        if name not in assignment.matrices:
            raise ValueError(f"the assignment has no matrix {name!r}; derive it from a model of the same shape")
        _check_matrix(name, layer, assignment.matrices[name])
        _check_activation(name, layer, assignment.activation_bits.get(name))


def check_shape(assignment: Assignment) -> None:
    """Raise ValueError when an assignment chooses the shape of the model: nothing applies one."""
    if assignment.shape is not None:
        chosen = ", ".join(assignment.shape.to_dict())
        raise ValueError(
            f"the assignment has a shape of the model ({chosen}), which is not applied; give the model that shape "
            "first, and leave it out"
        )


def _check_matrix(name: str, layer: QuantizedMatrix, given: MatrixAssignment) -> None:
    spec = layer.spec
    if len(given.bits) != spec.layout.count:
        raise ValueError(f"{name}: the assignment has {len(given.bits)} sub-groups, the model {spec.layout.count}")
    if spec.patterns and given.keep_of not in (None, *spec.patterns):
        words = ", ".join(map(pattern_word, spec.patterns))
        raise ValueError(
            f"{name}: the assignment has the pattern {pattern_word(given.keep_of)}, and the model has {words} to "
            "choose from"
        )
    if not spec.patterns and given.keep_of not in (None, spec.keep_of):
        kept, block = given.keep_of
        raise ValueError(
            f"{name}: the assignment keeps {kept} of every {block} weights, the model does not; quantize "
            f"it with mask='n:m', mask_options={{'kept': {kept}, 'block': {block}}}"
        )
    if given.nested not in ((), spec.nested):
        raise ValueError(
            f"{name}: the assignment has the nested precisions {given.nested}, the model "
            f"{spec.nested or 'none'}; quantize it with nested=True and those bits"
        )
    if spec.nested and set(given.bits) != {spec.nested[-1]}:
        raise ValueError(
            f"{name}: nested codes are stored at {spec.nested[-1]} bits in every sub-group, the "
            "assignment has others; hf_mpq.set_precision chooses what is used"
        )


def _check_activation(name: str, layer: QuantizedMatrix, bits: int | None) -> None:
    if bits is None:
        return
    if not isinstance(layer, MPQLinear) or layer.input_quantizer is None:
        raise ValueError(
            f"{name}: the assignment has {bits} bits for its input, which is float in this model; "
            "quantize it with activation_bits, or leave them out of the assignment"
        )
    if not 2 <= bits <= 8:
        raise ValueError(f"{name}: activations take 2 to 8 bits, the assignment has {bits}")
