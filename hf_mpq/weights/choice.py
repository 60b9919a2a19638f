"""What a gate hands to a source and a quantizer."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor


class PlaneWindow(NamedTuple):
    """Bit planes that codes must fit into.

    Attributes:
        lowest: the lowest of them, `(groups,)` int64.
        count: how many there are, `(groups,)` int64; 0 for sub-groups that are pruned.
    """

    lowest: Tensor
    count: Tensor


@dataclass(frozen=True)
class Choice:
    """One candidate for each sub-group, a mixture of all of them, a grid that is no candidate's, or bit planes.

    Attributes:
        index: position in the candidates, `(groups,)` int64; None where there is no single one.
        probabilities: weight of each candidate, `(groups, candidates)`; None but for a mixture.
        levels: step, differentiable, and highest level, both `(groups,)`: the grid is all whole numbers of steps from
            minus the highest to the highest; None but for a gate that sets the grid.
        planes: share of each bit plane of the source, lowest first, differentiable, `(groups, planes)`; None but for a
            gate that selects them.
        window: with `planes`, what whole codes must fit into; None while the values of planes are soft.
    """

    FLOAT: ClassVar["Choice"]
    """Of no gate: the weight is used as it is."""

    index: Tensor | None = None
    probabilities: Tensor | None = None
    levels: tuple[Tensor, Tensor] | None = None
    planes: Tensor | None = None
    window: PlaneWindow | None = None

    @property
    def passes(self) -> bool:
        """Whether quantizers pass the weight through: it is float, or its planes are selected already."""
        return self.planes is not None or (self.index is None and self.probabilities is None and self.levels is None)


Choice.FLOAT = Choice()
