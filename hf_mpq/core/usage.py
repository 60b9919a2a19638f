"""What a gate says about the precision it yields."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Usage:
    """Expected use of one weight matrix, differentiable where the gate is.

    Attributes:
        bits: expected bits of each sub-group, `(groups,)`.
        keep: probability that each sub-group is kept (more than 0 bits), `(groups,)`.
        probabilities: of each candidate, `(groups, candidates)`; None where the gate has none for them.
        likeliest: the bits that would be decided now, `(groups,)` int64, where there are no probabilities.
        activation_bits: expected bits of the input; None where they are not open.
        activation_probabilities: of each candidate of the input, `(candidates,)`; None where there are none.
        prefix: whether sub-groups are kept from the first one on, in all shards alike, and so not independently.
    """

    bits: Tensor
    keep: Tensor
    probabilities: Tensor | None = None
    likeliest: Tensor | None = None
    activation_bits: Tensor | float | None = None
    activation_probabilities: Tensor | None = None
    prefix: bool = False
