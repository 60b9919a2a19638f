"""What a learned parameter is to an optimizer: the module that owns it says so, its name does not."""

from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

ROLES = WEIGHTS, STEPS, RANGES, OFFSETS, GATE_PARAMETERS, PLANES = (
    "weights",
    "steps",
    "ranges",
    "offsets",
    "gates",
    "planes",
)
"""Weights learn as the rest of the model does. Steps and ranges are positive and change by shares of their own size;
offsets and bit planes, of any sign, by shares of the `unit` that their module names. Gates learn as the search wants.
Only weights decay. Planes are weights to the passes of a search."""

QUANTIZER_PARAMETERS = "quantizers"
"""With `WEIGHTS` and `GATE_PARAMETERS` the groups that a pass of a search updates: all that the quantizers learn."""


class PerPrecision(nn.Module):
    """Base of modules that may have parameters of which every precision has entries of its own.

    Attributes:
        by_precision: names of those parameters. A pass at one precision has a gradient in its own entries alone.
    """

    by_precision: ClassVar[frozenset[str]] = frozenset()


class LearnedPart(PerPrecision):
    """Base of quantizers, gates, masks, sources and transforms.

    Attributes:
        roles: role of each parameter by its name in the module; parameters that are not named are an error in training.
        group: what else than weights it learns is a part of in a pass: of the quantizers or of the gates.
        by_group: names of all its tensors with one entry for each sub-group along the first axis. A class that names
            them itself can be run for several matrices as one (`weights.joined`); what it inherits does not count.
    """

    roles: ClassVar[Mapping[str, str]] = {}
    group: ClassVar[str] = QUANTIZER_PARAMETERS
    by_group: ClassVar[tuple[str, ...]] = ()

    def role_of(self, name: str) -> str:
        """Role of a parameter; raises ValueError where the class names none."""
        if name not in self.roles:
            known = ", ".join(map(repr, ROLES))
            raise ValueError(
                f"{type(self).__name__} has a parameter {name!r} without a role: add it to the class's "
                f"`roles`, as one of {known}"
            )
        return self.roles[name]

    def unit(self, name: str) -> Tensor:
        """What an offset, or a bit plane, is counted in: a tensor that broadcasts with it."""
        raise NotImplementedError(f"{type(self).__name__} has an offset or plane {name!r}, and no `unit` for it")


def parameters_by_precision(model: nn.Module) -> Iterator[nn.Parameter]:
    """Every parameter of which each precision has entries of its own."""
    for module in model.modules():
        if isinstance(module, PerPrecision):
            yield from (one for name, one in module.named_parameters(recurse=False) if name in module.by_precision)


class Role(NamedTuple):
    """A parameter with its role, and the part that owns it."""

    parameter: nn.Parameter
    role: str
    part: LearnedPart
    name: str

    @property
    def group(self) -> str:
        """The group that passes update it with."""
        return WEIGHTS if self.role in (WEIGHTS, PLANES) else self.part.group


def roles_in(model: nn.Module) -> Iterator[Role]:
    """Every parameter that belongs to a learned part, with what the innermost such part says of it."""
    found = {}
    for part in model.modules():
        if isinstance(part, LearnedPart):
            found.update({id(one): (one, part, name) for name, one in part.named_parameters()})
    for parameter, part, name in found.values():
        yield Role(parameter, part.role_of(name), part, name)
