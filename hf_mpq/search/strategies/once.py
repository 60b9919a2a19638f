"""One training for all precisions of a nested model."""

from ...core import PrecisionSpace
from ...cost import Limits
from .base import STRATEGIES, Pass, Progress, SearchStrategy

COMBINED = ("min-norm", "sum")


@STRATEGIES.register("once")
class Once(SearchStrategy):
    """Every step has one pass for each precision that a nested model serves, the highest first: it learns from the
    float model, and each lower one from the one above. Nothing is searched.

    Reconstructed after "once quantization-aware training" of vertical layering (Wu et al., TPAMI 2023), which says that
    the losses of all precisions are one multi-objective optimisation. What all precisions share moves along the
    shortest vector in the convex hull of their gradients (Désidéri, 2012), so that no precision's loss rises; scales
    and normalisation parameters of one precision take its own gradient.

    Args:
        combine: how the gradients become one: `"min-norm"`, or `"sum"`, then of their mean loss.

    Raises:
        ValueError: when the model is not nested, or for another `combine`.
    """

    searches = False

    def __init__(self, space: PrecisionSpace, limits: Limits, combine: str = "min-norm"):
        super().__init__(space, limits)
        served = [set(spec.nested) for spec in space.weights.values() if spec.nested]
        if not served:
            raise ValueError(
                "once trains nested precisions, and this model has none: quantize it with "
                "MPQConfig(bits=(2, 3, 4, 8), nested=True)"
            )
        if combine not in COMBINED:
            raise ValueError(f"combine must be one of {', '.join(COMBINED)}; got {combine!r}")
        self.combine = combine
        highest, *lower = sorted(set.intersection(*served), reverse=True)
        share = 1 / (1 + len(lower)) if combine == "sum" else 1.0
        names = [f"{bits} bits" for bits in (highest, *lower)]
        self._passes = (
            Pass(names[0], precision=highest, share=share),
            *(Pass(f"{bits} bits", precision=bits, share=share, teacher=above) for bits, above in zip(lower, names)),
        )

    def passes(self, progress: Progress) -> tuple[Pass, ...]:
        """The same in every step."""
        return self._passes
