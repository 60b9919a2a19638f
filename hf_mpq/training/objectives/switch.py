"""Switches that let a layer's term through, or not, for each example."""

import torch
from torch import Tensor, nn

from ...core import replace_forward

WIDTH = 128
NORMS = {"layer": nn.LayerNorm, "batch": nn.BatchNorm1d}


class SwitchControl(nn.Module):
    """GHOST's switch control machine: the teacher's layer asks, the student's matched layer answers.

    Args:
        student_width, teacher_width: of the features.
        count: how many pairs of layers there are, each with its own switch.
        norm: `"layer"`, or `"batch"` as in the paper.
        temperature: of the relaxed switch.
    """

    def __init__(self, student_width: int, teacher_width: int, count: int, norm: str, temperature: float):
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"unknown norm {norm!r}; use one of {', '.join(map(repr, NORMS))}")
        if temperature <= 0:
            raise ValueError(f"temperature must be above zero, got {temperature}")
        query = lambda width: nn.Sequential(nn.Linear(width, WIDTH), NORMS[norm](WIDTH))  # noqa: E731
        self.queries = nn.ModuleList(query(teacher_width) for _ in range(count))
        self.keys = nn.ModuleList(nn.Sequential(query(student_width), nn.ReLU()) for _ in range(count))
        self.temperature = temperature

    def forward(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """Logits of the switches, `(batch, count)`.

        Args:
            student, teacher: mean feature of each example, `(batch, width)` for each pair.
        """
        products = (
            key(ours) * query(theirs)
            for key, ours, query, theirs in zip(self.keys, student, self.queries, teacher, strict=True)
        )
        return torch.stack([product.sum(-1) for product in products], dim=1) / WIDTH**0.5

    def open(self, logits: Tensor) -> Tensor:
        """The switches, 0 or 1 of the same shape, straight-through: one Gumbel sample each in training mode, none in
        evaluation mode."""
        if self.training:
            logits = (logits - torch.empty_like(logits).exponential_().log()) / self.temperature
        soft = logits.sigmoid()
        return replace_forward(soft, (soft > 0.5).to(soft.dtype))


def open_probability(logits: Tensor) -> Tensor:
    """How likely a sampled switch is open: `1 - exp(-exp(logit))`, as it is when -log(Exp(1)) exceeds -logit."""
    return -torch.expm1(-logits.clamp(max=20).exp())
