"""Weight programs of equally long lines as one, so that many matrices take as many calls as a single one."""

import copy
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..core import SubgroupLayout, Usage
from .compilation import SMALLEST
from .gates import Gate
from .program import WeightProgram
from .quantizers import GridQuantizer
from .roles import LearnedPart
from .seams import Seam

MOST_ON_GPU = 1 << 25
"""Weights that are quantized in one call on a GPU, where calls cost more than copies. On a CPU it is what stays in its
cache: a matrix that is compiled for is left alone."""


@dataclass(frozen=True)
class JoinedLayout(SubgroupLayout):
    """The sub-groups of several matrices with equally long rows, one matrix below the other."""

    parts: tuple[SubgroupLayout, ...] = ()

    @classmethod
    def of_parts(cls, parts: Sequence[SubgroupLayout]) -> "JoinedLayout":
        """Those of `parts`, which are cut into rows; raises ValueError where they are not, or rows differ in length."""
        if any(part.axis or part.line_length != parts[0].line_length for part in parts):
            raise ValueError("only matrices that are cut into equally long rows can be joined")
        return _joined_layout(tuple(parts))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        return tuple(size for part in self.parts for size in part.sizes)

    @property
    def count(self) -> int:
        return sum(part.count for part in self.parts)


@lru_cache(maxsize=256)
def _joined_layout(parts: tuple[SubgroupLayout, ...]) -> JoinedLayout:
    shape = sum(part.shape[0] for part in parts), parts[0].shape[1]
    return JoinedLayout(shape, sum(part.count for part in parts), parts=parts)


def joined_weights(programs: Sequence[WeightProgram], weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What `program(weight)` gives for each, bit for bit, in the calls of one.

    Args:
        programs: of which `joinable` says the same.
        weights: of each, `(out, in)` float32.
    """
    layout = JoinedLayout.of_parts([program.layout for program in programs])
    seam = Seam([program.layout.shape[0] for program in programs])
    quantizer = joined_part([program.quantizer for program in programs], seam)
    quantizer.layout = layout
    gates = [program.gate for program in programs]
    of_gates = Seam([gate.groups for gate in gates])
    seam.tell(of_gates)
    gate = joined_gate(gates, of_gates)
    values = [program.float_weight(weight) for program, weight in zip(programs, weights)]
    found = seam.split(quantizer(seam.join(values), gate()))
    keeps = [program.keep() for program in programs]
    return tuple(value if keep is None else value * keep for value, keep in zip(found, keeps))


def joinable(program: WeightProgram) -> Hashable | None:
    """What programs that can be joined have in common; None for one that is run alone."""
    quantizer, spec = program.quantizer, program.spec
    if spec.layout.axis or not isinstance(quantizer, GridQuantizer) or not program.rounding or not quantizer.precisions:
        return None
    gate = joinable_gate(program.gate)
    if gate is None or quantizer.live is not None or not _declares(quantizer):
        return None
    options = repr(sorted(spec.quantizer_options.items()))
    return gate, type(quantizer), options, spec.candidates, spec.scale_dtype, spec.layout.line_length


def joinable_gate(gate: Gate) -> Hashable | None:
    """The same of gates."""
    if not _declares(gate):
        return None
    drawn = vars(gate).get("_drawn") is not None
    return type(gate), gate.candidates, gate.training, gate.path is None, drawn, gate.device


class JoinedGates(NamedTuple):
    """Gates whose tensors are joined already, in this order.

    Attributes:
        tensors: of all of them, by name.
        seam: that joined them.
    """

    gates: tuple[Gate, ...]
    tensors: dict[str, Tensor]
    seam: Seam


_JOINED: ContextVar[list[JoinedGates] | None] = ContextVar("joined_gates", default=None)


@contextmanager
def joined_once() -> Iterator[None]:
    """Inside, what quantizes weights and what asks for usages joins the tensors of gates once, so that there is one
    gradient of each and not one from either. For one pass: what gates hold must not change in between."""
    token = _JOINED.set([])
    try:
        yield
    finally:
        _JOINED.reset(token)


def joined_gate(gates: Sequence[Gate], seam: Seam) -> Gate:
    """One gate for the sub-groups of all."""
    found = _one_gate(joined_part(gates, seam), gates)
    known = _JOINED.get()
    if known is not None:
        known.append(JoinedGates(tuple(gates), {name: vars(found).get(name) for name in found.by_group}, seam))
    return found


def _one_gate(found: Gate, gates: Sequence[Gate]) -> Gate:
    """The twin that has their tensors, with all else of them."""
    found.groups = sum(gate.groups for gate in gates)
    found._path = None if gates[0].path is None else torch.cat([gate.path for gate in gates])
    for name in gates[0].by_part:  # a number of each gate, for each of its sub-groups
        columns = [getattr(gate, name).reshape(1, 1).expand(gate.groups, 1) for gate in gates]
        _put(found, name, torch.cat(columns))
    return found


def usages_of(gates: Sequence[Gate]) -> list[Usage]:
    """What `gate.usage()` gives for each, in a few calls for all that are alike."""
    alike: dict[Hashable, list[int]] = {}
    for place, gate in enumerate(gates):
        alike.setdefault(joinable_gate(gate) or place, []).append(place)
    found: dict[int, Usage] = {}
    for places in alike.values():
        found.update(zip(places, _usages([gates[place] for place in places])))
    return [found[place] for place in range(len(gates))]


def _usages(gates: Sequence[Gate]) -> list[Usage]:
    if len(gates) == 1:
        return [gates[0].usage()]
    known = _known(gates)
    places = {id(gate): place for place, gate in enumerate(gates)}
    rest = [gate for gate in gates if not any(gate is one for group in known for one in group.gates)]
    if rest:
        seam = Seam([gate.groups for gate in rest])
        part = joined_part(rest, seam)
        known.append(JoinedGates(tuple(rest), {name: vars(part).get(name) for name in part.by_group}, seam))
    order = [gate for group in known for gate in group.gates]
    usage = _one_gate(_twin(known), order).usage()
    seam, first = Seam([gate.groups for gate in order]), 0
    for group in known:
        seam.tell(group.seam, first)
        first += len(group.gates)
    parts = (seam.split(one) for one in (usage.bits, usage.keep, usage.probabilities))
    found = {places[id(gate)]: Usage(*part) for gate, part in zip(order, zip(*parts))}
    return [found[place] for place in range(len(gates))]


def _known(gates: Sequence[Gate]) -> list[JoinedGates]:
    """What is joined already of some of them, and holds gradients where they are asked for."""
    wanted, found = {id(gate) for gate in gates}, []
    for group in reversed(_JOINED.get() or []):
        held = all(group.tensors[name].requires_grad for name in _learned(group.gates[0]))
        if {id(gate) for gate in group.gates} <= wanted and (held or not torch.is_grad_enabled()):
            found.append(group)
            wanted -= {id(gate) for gate in group.gates}
    return found[::-1]


def _learned(gate: Gate) -> list[str]:
    return [name for name in gate.by_group if name in gate._parameters and gate._parameters[name].requires_grad]


def _twin(known: Sequence[JoinedGates]) -> Gate:
    """Of the first gate, with what all of them hold of their sub-groups."""
    gate = known[0].gates[0]
    twin = copy.copy(gate)
    twin._parameters, twin._buffers = dict(twin._parameters), dict(twin._buffers)
    for name in gate.by_group:
        tensors = [group.tensors[name] for group in known]
        if tensors[0] is not None:
            _put(twin, name, tensors[0] if len(tensors) == 1 else torch.cat(tensors))
    return twin


def joined_part(parts: Sequence[LearnedPart], seam: Seam) -> LearnedPart:
    """A twin of the first that holds what all have of their sub-groups; it lives for one forward pass."""
    twin = copy.copy(parts[0])
    twin._parameters, twin._buffers = dict(twin._parameters), dict(twin._buffers)
    for name in parts[0].by_group:
        tensors = [getattr(part, name) for part in parts]
        if tensors[0] is not None:
            _put(twin, name, seam.join(tensors))
    return twin


def most_together(device: torch.device) -> int:
    """Weights that are quantized in one call."""
    return SMALLEST - 1 if device.type == "cpu" else MOST_ON_GPU


def _declares(part: LearnedPart) -> bool:
    """Whether the class itself, and not one that it inherits from, says what a part has of each sub-group."""
    return "by_group" in vars(type(part))


def _put(twin: LearnedPart, name: str, tensor: Tensor) -> None:
    twin._parameters.pop(name, None)
    twin._buffers.pop(name, None)
    vars(twin)[name] = tensor
