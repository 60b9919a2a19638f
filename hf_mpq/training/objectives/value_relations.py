"""Relations between tokens as targets, for students of any shape."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from .base import OBJECTIVES, Objective, Signals
from .layers import check_layers, layer_count, uniform_layer
from .padding import kl_divergence, mean_of_tokens
from .precision import in_float32
from .scores import scaled_products

RELATIONS = ("query", "key", "value")


@OBJECTIVES.register("value-relations")
class ValueRelations(Objective):
    """Divergence of self-attention relations (MiniLMv2, Wang et al. 2021, section 3): for each relation
    `KL(teacher || student)` of `softmax(A A^T / sqrt(width))` with A the values (or queries, or keys) of one layer cut
    into relation heads; mean over heads and the real tokens of each example, summed over relations.

    Padding takes no part in the softmax. The paper sums all three relations and takes an upper middle layer of large
    teachers (21 of 24 for BERT-large); values alone are the default here.

    Args:
        relation_heads: None for the student's number of attention heads.
        relations: any of `"query"`, `"key"` and `"value"`.
        layer: of the student, numbered from 1; None for the last.
        teacher_layer: None for the one at the same relative depth.

    Raises:
        ValueError: for widths that the heads do not divide, unknown relations, or layers that are not there.
    """

    needs_teacher = True

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        weight: float = 1.0,
        relation_heads: int | None = None,
        relations: Sequence[str] = ("value",),
        layer: int | None = None,
        teacher_layer: int | None = None,
    ):
        super().__init__(student, teacher, weight)
        self.features = _checked_relations(relations)
        self.heads = student.config.num_attention_heads if relation_heads is None else relation_heads
        counts = layer_count(student), layer_count(teacher)
        self.layer = counts[0] if layer is None else layer
        check_layers("student", (self.layer,), 1, counts[0])
        self.teacher_layer = uniform_layer(self.layer, *counts) if teacher_layer is None else teacher_layer
        check_layers("teacher", (self.teacher_layer,), 1, counts[1])
        widths = student.config.hidden_size, teacher.config.hidden_size
        if self.heads < 1 or any(width % self.heads for width in widths):
            raise ValueError(
                f"{self.heads} relation heads do not divide the widths {widths[0]} (student) and "
                f"{widths[1]} (teacher); set relation_heads to a divisor of both"
            )

    @in_float32
    def forward(self, student: Signals, teacher: Signals, batch: Mapping[str, Tensor]) -> Tensor:
        columns = None if student.mask is None else student.mask[:, None, None, :]
        terms = (
            kl_divergence(
                self._relation(teacher, name, self.layer if teacher.own else self.teacher_layer).detach(),
                self._relation(student, name, self.layer),
                columns,
            )
            for name in self.features
        )
        return sum(mean_of_tokens(term.mean(1), student.mask).mean() for term in terms)

    def _relation(self, side: Signals, name: str, layer: int) -> Tensor:
        rows = side.features[name][layer - 1]
        return scaled_products(rows, rows, self.heads)


def _checked_relations(relations: Sequence[str]) -> tuple[str, ...]:
    chosen = tuple(name for name in RELATIONS if name in relations)
    if isinstance(relations, str) or not chosen or len(chosen) != len(relations):
        raise ValueError(f"relations must be a list of different ones of {', '.join(RELATIONS)}; got {relations!r}")
    return chosen
