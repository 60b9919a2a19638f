"""The contract of every loss term."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn
from transformers.utils import ModelOutput

from ...core import Registry

OBJECTIVES: Registry[type["Objective"]] = Registry("objective", passed=("teacher",))


@dataclass(frozen=True)
class Signals:
    """What one model gave for a batch.

    Attributes:
        outputs: of its forward.
        features: name to one tensor for each layer; see `hf_mpq.nn.features`.
        mask: real tokens, `(batch, tokens)` bool; None when all are.
        own: whether they are the student's, of an earlier pass: its layers and widths, whatever the teacher's are.
        part: whether they are those of a sub-net of the student, which has fewer layers, and the first dimensions.
    """

    outputs: ModelOutput
    features: Mapping[str, list[Tensor]] = field(default_factory=dict)
    mask: Tensor | None = None
    own: bool = False
    part: bool = False

    def detached(self) -> "Signals":
        """The same without a graph, to teach another pass."""
        plain = lambda one: one.detach() if isinstance(one, Tensor) else one  # noqa: E731
        outputs = type(self.outputs)(**{name: plain(value) for name, value in self.outputs.items()})
        features = {name: [plain(one) for one in layers] for name, layers in self.features.items()}
        return Signals(outputs, features, self.mask, own=True)


class Objective(nn.Module, ABC):
    """One term of the loss. It may own parameters: they are optimised, checkpointed and synchronised, never shipped.

    Args:
        student, teacher: the models, for their shapes; they must not be kept as submodules.
        weight: factor of this term in the loss.

    Raises:
        ValueError: without a teacher where one is needed.

    Attributes:
        features: names of the features that it reads.
        of_subnets: whether it takes features of a sub-net of the student.
    """

    of_subnets: ClassVar[bool] = False
    needs_teacher: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False
    features: ClassVar[tuple[str, ...]] = ()

    def __init__(self, student: nn.Module, teacher: nn.Module | None = None, weight: float = 1.0):
        super().__init__()
        if self.needs_teacher and teacher is None:
            raise ValueError(f"{type(self).__name__} needs a teacher: give the trainer one, or leave it out")
        self.weight = weight

    @abstractmethod
    def forward(self, student: Signals, teacher: Signals | None, batch: Mapping[str, Tensor]) -> Tensor:
        """The unweighted term: its mean over the `units` of the batch, a scalar in float32."""

    def units(self, batch: Mapping[str, Tensor]) -> int:
        """How many things of a batch the term is the mean of: its examples, unless a term says otherwise.

        Micro-batches and processes count by their units, so that accumulation gives the gradient of the whole batch.
        """
        return len(next(iter(batch.values())))

    def metrics(self) -> dict[str, float]:
        """What logs show besides the loss."""
        return {}
