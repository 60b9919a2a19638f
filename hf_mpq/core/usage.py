"""What a gate says about the precision it yields."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Usage:
    """Expected use of one weight matrix, differentiable where the gate is.

    Attributes:
        bits: expected bits of each sub-group, `(groups,)`.
        keep: probability that each sub-group is kept (more than 0 bits), `(groups,)`.
        probabilities: of each candidate, `(groups, candidates)`; None where the gate has no candidates.
        width: expected share of the matrix' lines that exist at all; 1 for a plain matrix.
        activation_bits: expected bits of the input activation; None means float.
    """

    bits: Tensor
    keep: Tensor
    probabilities: Tensor | None = None
    width: Tensor | float = 1.0
    activation_bits: Tensor | float | None = None
