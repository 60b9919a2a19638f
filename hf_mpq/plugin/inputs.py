"""How the input of a matrix is quantized: one number of bits, candidates of a search, or the bits of its weights."""

from dataclasses import replace

from ..core import ActivationSpec, Assignment
from ..weights import GATES
from .config_checks import whole_numbers
from .fields import OF_WEIGHTS, ConfigFields

LEAST_BITS = 2


def input_spec(
    config: ConfigFields,
    name: str,
    chosen: dict,
    assignment: Assignment | None,
    precisions: tuple[int, ...],
    decided: tuple[int, ...] | None,
) -> ActivationSpec | None:
    """How the input of one matrix is quantized; None leaves it float.

    Args:
        precisions: candidates of its weights.
        decided: bits of its sub-groups, where they are.
    """
    given = chosen["activation_bits"]
    if given is None:
        return None
    spec = ActivationSpec(config.activation, options=config.activation_options)
    if assignment is not None and name in assignment.activation_bits:
        return spec.decided(assignment.activation_bits[name])
    follows = given == OF_WEIGHTS
    candidates = {max(bits, LEAST_BITS) for bits in precisions} if follows else whole_numbers(given)
    spec = replace(spec, candidates=tuple(sorted(set(candidates))), follows=follows)
    if len(spec.candidates) == 1 or (follows and (decided is not None or chosen["quantizer"] == "nested")):
        return spec.decided(spec.following(decided or spec.candidates))
    open_gate = {"gate": chosen["gate"], "gate_options": chosen["gate_options"]} if _searches(chosen["gate"]) else {}
    return replace(spec, bits=spec.candidates[-1], **open_gate)


def _searches(gate: str) -> bool:
    """Whether a gate is one whose precision is open, and not one for weights alone."""
    return GATES[gate].searching and not GATES[gate].selects_planes and not GATES[gate].sets_width
