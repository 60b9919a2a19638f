"""Scores between the tokens of two texts, the teacher's as targets."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from .base import OBJECTIVES, Objective, Signals
from .embeddings import hidden_states
from .precision import in_float32


@OBJECTIVES.register("maxsim")
class MaxSim(Objective):
    """Distillation of the scores of late interaction (ColBERT, Khattab and Zaharia, 2020, equation 3).

    `S(q, d) = sum over tokens i of q of max over tokens j of d of cos(e_qi, e_dj)`, e the hidden states of real tokens,
    projected if there is a projection. Every text of a batch asks for every other one; the term is the squared
    difference of `S / tokens of q`, mean over the pairs of different texts. For students of any width, but with a
    projection.

    Pairs are those of a micro-batch: with gradient accumulation, texts of different ones are not compared.

    Args:
        projection: folder of the encoder's dense layer, as sentence-transformers saves it (`my-colbert/1_Dense`). It
            stays as it is. None compares the hidden states themselves.

    Raises:
        ValueError: for a folder without such a layer, or one that is not linear or does not fit the models; in
            forward, for models with a head.
    """

    needs_teacher = True

    def __init__(self, student: nn.Module, teacher: nn.Module, weight: float = 1.0, projection: str | None = None):
        super().__init__(student, teacher, weight)
        matrix, bias = (None, None) if projection is None else _read(Path(projection))
        for side in (student, teacher):
            if matrix is not None and matrix.shape[1] != side.config.hidden_size:
                raise ValueError(
                    f"the projection in {projection} takes {matrix.shape[1]} features, and {type(side).__name__} gives "
                    f"{side.config.hidden_size}: give the folder that belongs to it"
                )
        self.register_buffer("_matrix", matrix, persistent=False)
        self.register_buffer("_bias", bias, persistent=False)

    @in_float32
    def forward(self, student: Signals, teacher: Signals, batch: Mapping[str, Tensor]) -> Tensor:
        ours, theirs = hidden_states(student, teacher)
        mask = student.mask if student.mask is not None else ours.new_ones(ours.shape[:2], dtype=torch.bool)
        squares = (self._scores(ours, mask) - self._scores(theirs.detach(), mask)).square()
        others = ~torch.eye(len(squares), dtype=torch.bool, device=squares.device)
        return (squares * others).sum() / max(self.units(batch), 1)

    def _scores(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """S of all pairs of texts by the tokens of the first, `(batch, batch)`."""
        projected = hidden.float() if self._matrix is None else linear(hidden.float(), self._matrix, self._bias)
        vectors = normalize(projected, dim=-1)
        cosines = torch.einsum("qiw,djw->qidj", vectors, vectors)
        best = cosines.masked_fill(~mask, -torch.inf).amax(-1)  # query, its token, document
        real = mask.unsqueeze(-1)
        return best.masked_fill(~real, 0).sum(1) / real.sum(1).clamp(min=1)

    def units(self, batch: Mapping[str, Tensor]) -> int:
        """Its pairs of different texts."""
        count = super().units(batch)
        return count * (count - 1)


def _read(folder: Path) -> tuple[Tensor, Tensor | None]:
    """Weight `(features, width)` and bias of a dense layer of sentence-transformers, in float32."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "model.safetensors")
        matrix, bias = tensors["linear.weight"].float(), tensors.get("linear.bias")
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{folder} holds no dense layer of sentence-transformers (config.json and model.safetensors): give the "
            f"folder that its encoder was saved with, such as my-colbert/1_Dense"
        ) from error
    activation = config.get("activation_function", "")
    if not activation.endswith(".Identity") or config.get("use_residual"):
        raise ValueError(
            f"the layer in {folder} is not linear ({activation}, residual: {bool(config.get('use_residual'))}): "
            f"distil without it"
        )
    return matrix, None if bias is None else bias.float()
