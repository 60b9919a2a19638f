"""Attention scores of the teacher as targets."""

from collections.abc import Mapping

from torch import Tensor, nn

from .base import OBJECTIVES, Objective, Signals
from .layers import layer_pairs, pairs_with
from .padding import mean_of_tokens
from .precision import in_float32
from .reduction import check_reduction, reduce_layers
from .scores import scaled_products


@OBJECTIVES.register("attention-scores")
class AttentionScores(Objective):
    """Squared error of `q k^T / sqrt(width)`: mean over heads and the pairs of real tokens of each example, put
    together over layers (TinyBERT, Jiao et al. 2020, equation 7; TernaryBERT, Zhang et al. 2020).

    These are the scores before the softmax, of the projections alone: before any rotation, without relative position
    terms, and with no mask added; the scale is `1 / sqrt(width)` in every family.

    Args:
        layers: the student's layer to the teacher's, numbered from 1; None maps all uniformly.
        reduction: over layers: `"sum"` as in both papers, or `"mean"`.

    Raises:
        ValueError: for another number of heads, an impossible mapping or an unknown reduction.
    """

    needs_teacher = True
    features = ("query", "key")

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        weight: float = 1.0,
        layers: Mapping[int, int] | None = None,
        reduction: str = "sum",
    ):
        super().__init__(student, teacher, weight)
        self.pairs, self.reduction = layer_pairs(student, teacher, 1, layers), check_reduction(reduction)
        self.heads, others = student.config.num_attention_heads, teacher.config.num_attention_heads
        if self.heads != others:
            raise ValueError(
                f"the student has {self.heads} heads and the teacher {others}, so their attention scores "
                "cannot be compared one by one; use 'value-relations' instead"
            )

    @in_float32
    def forward(self, student: Signals, teacher: Signals, batch: Mapping[str, Tensor]) -> Tensor:
        pairs = pairs_with(teacher, self.pairs)
        errors = ((self._scores(student, i) - self._scores(teacher, j).detach()).square() for i, j in pairs)
        rows = (mean_of_tokens(error.mean(1), student.mask) for error in errors)  # (batch, tokens) each
        return reduce_layers([mean_of_tokens(row, student.mask) for row in rows], self.reduction)

    def _scores(self, side: Signals, layer: int) -> Tensor:
        return scaled_products(side.features["query"][layer - 1], side.features["key"][layer - 1], self.heads)
