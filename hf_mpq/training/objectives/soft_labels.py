"""The teacher's predictions as labels."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ...nn.heads import LABELS, SPANS, VALUES, kind_of
from .base import OBJECTIVES, Objective, Signals
from .padding import kl_divergence, mean_of_tokens
from .precision import in_float32


@OBJECTIVES.register("soft-labels")
class SoftLabels(Objective):
    """Distillation from logits (Hinton, Vinyals and Dean, 2015): `T^2 KL(teacher / T || student / T)` of each example.

    Its gradient is that of the soft cross-entropy. Every output named `*logits` takes part, with equal weights:

    - classes `(batch, classes)`: one distribution; independent Bernoulli ones, averaged over labels, where
      `problem_type` is `"multi_label_classification"`;
    - one output, or `problem_type` `"regression"`: squared error, without the temperature;
    - tokens `(batch, tokens, classes)`: the mean over real tokens;
    - start and end `(batch, tokens)`: distributions over real tokens.

    Args:
        temperature: T.

    Raises:
        ValueError: for a temperature that is not above zero; in forward, for models without logits or with
            different ones.
    """

    needs_teacher = True

    def __init__(self, student: nn.Module, teacher: nn.Module, weight: float = 1.0, temperature: float = 1.0):
        super().__init__(student, teacher, weight)
        if temperature <= 0:
            raise ValueError(f"temperature must be above zero, got {temperature}")
        self.temperature, self._config = temperature, student.config

    @in_float32
    def forward(self, student: Signals, teacher: Signals, batch: Mapping[str, Tensor]) -> Tensor:
        names = [name for name in student.outputs if name.endswith("logits")]
        if not names:
            raise ValueError("the student has no logits: load it with a head, or distil from 'hidden-states'")
        terms = [self._of_examples(name, *_pair(name, student, teacher), student.mask) for name in names]
        return torch.stack(terms).mean()

    def _of_examples(self, name: str, ours: Tensor, theirs: Tensor, mask: Tensor | None) -> Tensor:
        """One term for each example, `(batch,)`."""
        if name in SPANS:
            return self._divergence(ours, theirs, mask)
        kind = kind_of(self._config, name, ours)
        if kind == VALUES:
            values = (ours - theirs).square().mean(-1)
        else:
            values = (self._independent if kind == LABELS else self._divergence)(ours, theirs)
        return values if values.dim() == 1 else mean_of_tokens(values, mask)

    def _divergence(self, ours: Tensor, theirs: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.temperature**2 * kl_divergence(theirs / self.temperature, ours / self.temperature, mask)

    def _independent(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Mean over labels of the divergence of each yes or no."""
        ours, theirs = ours / self.temperature, theirs / self.temperature
        soft = theirs.sigmoid()
        cross, entropy = (binary_cross_entropy_with_logits(x, soft, reduction="none") for x in (ours, theirs))
        return self.temperature**2 * (cross - entropy).mean(-1)


def _pair(name: str, student: Signals, teacher: Signals) -> tuple[Tensor, Tensor]:
    """Logits of both, in float32; only the student's have a gradient."""
    ours, theirs = student.outputs[name].float(), teacher.outputs.get(name)
    if theirs is None or theirs.shape != ours.shape:
        found = "none" if theirs is None else str(tuple(theirs.shape))
        raise ValueError(
            f"{name}: the student gives {tuple(ours.shape)}, the teacher {found}; use a teacher with the "
            "same head and labels, or distil from 'hidden-states'"
        )
    return ours, theirs.detach().float()
