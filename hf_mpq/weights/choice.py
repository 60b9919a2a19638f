"""What a gate hands to a quantizer."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Choice:
    """Either one candidate for each sub-group, or a mixture of all of them.

    Attributes:
        index: position in the candidates, `(groups,)` int64; None for a mixture.
        probabilities: weight of each candidate, `(groups, candidates)`; None for a single choice.
    """

    index: Tensor | None = None
    probabilities: Tensor | None = None
