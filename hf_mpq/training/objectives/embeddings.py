"""Sentence embeddings of the teacher as targets, one by one and in relation to each other."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ...nn.pooling import check_pooling, embed
from .base import OBJECTIVES, Objective, Signals
from .precision import in_float32


class _Embeddings(Objective):
    """What both terms read."""

    needs_teacher = True

    def __init__(self, student: nn.Module, teacher: nn.Module, weight: float = 1.0, pooling: str = "mean"):
        super().__init__(student, teacher, weight)
        self.pooling = check_pooling(pooling)

    def _pair(self, student: Signals, teacher: Signals) -> tuple[Tensor, Tensor]:
        """Embeddings of both, `(batch, width)`; only the student's have a gradient."""
        ours, theirs = (embed(one, student.mask, self.pooling) for one in hidden_states(student, teacher))
        return ours, theirs.detach()


def hidden_states(*sides: Signals) -> list[Tensor]:
    """The last hidden states of each side, `(batch, tokens, width)`.

    Raises:
        ValueError: for a model with a head.
    """
    if any("last_hidden_state" not in side.outputs for side in sides):
        raise ValueError(
            "embeddings are distilled from models without a head: load student and teacher with "
            "AutoModel, or distil from 'soft-labels'"
        )
    return [side.outputs["last_hidden_state"] for side in sides]


@OBJECTIVES.register("embedding-cosine")
class EmbeddingCosine(_Embeddings):
    """Cosine distance of each text's embedding from the teacher's, `1 - cos` (as Reimers and Gurevych, 2020, who take
    the squared error).

    Args:
        pooling: `"mean"` over real tokens, `"cls"` or `"last"`.

    Raises:
        ValueError: for an unknown pooling or another width; in forward, for models with a head.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, weight: float = 1.0, pooling: str = "mean"):
        super().__init__(student, teacher, weight, pooling)
        widths = student.config.hidden_size, teacher.config.hidden_size
        if widths[0] != widths[1]:
            raise ValueError(
                f"embeddings of width {widths[0]} (student) and {widths[1]} (teacher) cannot be compared "
                "one by one; use 'embedding-relations' instead"
            )

    @in_float32
    def forward(self, student: Signals, teacher: Signals, batch: Mapping[str, Tensor]) -> Tensor:
        ours, theirs = self._pair(student, teacher)
        return (1 - (ours * theirs).sum(-1)).mean()


@OBJECTIVES.register("embedding-relations")
class EmbeddingRelations(_Embeddings):
    """Squared difference of the two matrices of cosine similarities between the texts of a batch, mean over the pairs
    of different texts (similarity-preserving distillation, Tung and Mori, 2019, of normalised embeddings). For students
    of any width.

    Pairs are those of a micro-batch: with gradient accumulation, texts of different ones are not compared.

    Args:
        pooling: `"mean"` over real tokens, `"cls"` or `"last"`.

    Raises:
        ValueError: for an unknown pooling; in forward, for models with a head.
    """

    @in_float32
    def forward(self, student: Signals, teacher: Signals, batch: Mapping[str, Tensor]) -> Tensor:
        ours, theirs = self._pair(student, teacher)
        squares = (ours @ ours.mT - theirs @ theirs.mT).square()
        others = ~torch.eye(len(squares), dtype=torch.bool, device=squares.device)
        return (squares * others).sum() / max(self.units(batch), 1)

    def units(self, batch: Mapping[str, Tensor]) -> int:
        """Its pairs of different texts."""
        count = super().units(batch)
        return count * (count - 1)
