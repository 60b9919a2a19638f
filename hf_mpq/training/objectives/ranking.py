"""The order that the teacher gives to the rows of a batch."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from .base import OBJECTIVES, Objective, Signals
from .precision import in_float32


@OBJECTIVES.register("ranking")
class Ranking(Objective):
    """Distillation of a reranker's order: RankNet's cross-entropy (Burges et al., 2005, equation 3) over all pairs of
    rows of a batch, with the teacher's probability that one is above the other as the label.

    `mean over i < j of KL(sigmoid((t_i - t_j) / T) || sigmoid((s_i - s_j) / T))`. Unlike the squared error of
    `"soft-labels"` it does not see what is added to all scores.

    Args:
        temperature: T.

    Raises:
        ValueError: for a temperature that is not above zero; in forward, for models without one logit for each row.
    """

    needs_teacher = True

    def __init__(self, student: nn.Module, teacher: nn.Module, weight: float = 1.0, temperature: float = 1.0):
        super().__init__(student, teacher, weight)
        if temperature <= 0:
            raise ValueError(f"temperature must be above zero, got {temperature}")
        self.temperature = temperature

    @in_float32
    def forward(self, student: Signals, teacher: Signals, batch: Mapping[str, Tensor]) -> Tensor:
        ours, theirs = (self._gaps(side) for side in (student, teacher))
        if not ours.numel():
            return ours.sum()  # a single row has no order
        soft = theirs.detach().sigmoid()
        cross, entropy = (binary_cross_entropy_with_logits(one, soft) for one in (ours, theirs.detach()))
        return cross - entropy

    def _gaps(self, side: Signals) -> Tensor:
        """Scores less each other, of every pair of rows, in units of the temperature, `(pairs,)`."""
        logits = side.outputs.get("logits")
        if logits is None or logits.dim() != 2 or logits.shape[1] != 1:
            found = "none" if logits is None else str(tuple(logits.shape))
            raise ValueError(f"ranking needs one logit for each row, (batch, 1), this model gives {found}")
        scores = logits.float().squeeze(1) / self.temperature
        first, second = torch.triu_indices(len(scores), len(scores), offset=1, device=scores.device)
        return scores[first] - scores[second]
