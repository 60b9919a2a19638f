"""What a gate that sets the grid, or selects bit planes, asks of a quantizer, of weights or activations."""

from torch import Tensor

from .roles import LearnedPart


class RangedPart(LearnedPart):
    """Base of quantizers: those that learn a range say so."""

    def largest(self) -> Tensor:
        """Largest value of each sub-group where that is learned, `(groups,)`, above zero and differentiable.

        Raises:
            ValueError: where it is not.
        """
        raise ValueError(
            f"a gate that sets the grid needs a quantizer that learns its range, and {type(self).__name__} does not: "
            "choose 'learned-range' for both, and as the activation where the bits of inputs are open"
        )

    def holds_codes(self, bits: int) -> bool:
        """Whether the levels at a precision are all whole numbers of steps that are below `2^(bits-1)` in size, and the
        steps what `restore` sets: then codes with a sign bit can be taken over."""
        return False
