"""What a gate hands to a quantizer."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Choice:
    """One candidate for each sub-group, a mixture of all of them, or a grid that is no candidate's.

    Attributes:
        index: position in the candidates, `(groups,)` int64; None where there is no single one.
        probabilities: weight of each candidate, `(groups, candidates)`; None but for a mixture.
        levels: step, differentiable, and highest level, both `(groups,)`: the grid is all whole numbers of steps from
            minus the highest to the highest; None but for a gate that sets the grid.
    """

    index: Tensor | None = None
    probabilities: Tensor | None = None
    levels: tuple[Tensor, Tensor] | None = None
