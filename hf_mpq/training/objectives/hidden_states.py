"""Hidden states of the teacher as targets."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .base import OBJECTIVES, Objective, Signals
from .layers import layer_count, layer_pairs, pairs_of_part, pairs_with
from .padding import mean_of_tokens
from .precision import in_float32
from .reduction import check_reduction, reduce_layers


@OBJECTIVES.register("hidden-states")
class HiddenStates(Objective):
    """Squared error of what the first layer reads and of what every layer gives: mean over features and the real
    tokens of each example, put together over layers (TinyBERT, Jiao et al. 2020, equations 8 and 9; TernaryBERT,
    Zhang et al. 2020).

    A student of another width learns one linear projection to the teacher's, shared by all layers. A student of
    another depth maps its layers uniformly. So does a sub-net of the student; its dimensions are the student's first,
    and are taught by the first of what teaches the student, or projected by that part of its projection.

    Args:
        layers: the student's layer to the teacher's, numbered from 1, 0 for the embeddings' output; None for all.
        reduction: over layers: `"sum"` as in both papers, or `"mean"`.

    Raises:
        ValueError: for an impossible mapping or an unknown reduction.
    """

    needs_teacher = True
    features = ("hidden",)
    of_subnets = True

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        weight: float = 1.0,
        layers: Mapping[int, int] | None = None,
        reduction: str = "sum",
    ):
        super().__init__(student, teacher, weight)
        self.pairs, self.reduction = layer_pairs(student, teacher, 0, layers), check_reduction(reduction)
        widths = student.config.hidden_size, teacher.config.hidden_size
        self.projection = nn.Identity() if widths[0] == widths[1] else nn.Linear(*widths, bias=False)
        self._layers = layer_count(student)

    @in_float32
    def forward(self, student: Signals, teacher: Signals, batch: Mapping[str, Tensor]) -> Tensor:
        ours, theirs = student.features["hidden"], teacher.features["hidden"]
        pairs = pairs_with(teacher, self.pairs)
        if student.part:
            pairs = pairs_of_part(self._layers, len(ours) - 1, teacher, self.pairs)
        ours, theirs = [ours[i].float() for i, _ in pairs], [theirs[j].detach().float() for _, j in pairs]
        gaps = torch.stack(self._gaps(ours, theirs, teacher.own))
        errors = gaps.square().mean(-1)  # (layers, batch, tokens)
        mask = None if student.mask is None else student.mask.expand_as(errors).flatten(0, 1)
        rows = mean_of_tokens(errors.flatten(0, 1), mask).view(errors.shape[:2])
        return reduce_layers(rows, self.reduction)

    def _gaps(self, ours: list[Tensor], theirs: list[Tensor], own: bool) -> Sequence[Tensor]:
        """Difference at every layer; of fewer dimensions than the student's, from the first ones."""
        width = ours[0].shape[-1]
        if own or isinstance(self.projection, nn.Identity):
            theirs = [one[..., :width] for one in theirs]
        else:
            ours = [nn.functional.linear(one, self.projection.weight[:, :width]) for one in ours]
        return torch._foreach_sub(ours, theirs)
