"""What a gate that sets the grid asks of a quantizer, of weights or activations."""

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
