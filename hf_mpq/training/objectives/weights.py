"""Terms over the student's weights, whatever the batch."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ...nn.matrix import QuantizedMatrix
from ...nn.walk import matrices
from .base import Objective, Signals
from .precision import in_float32

Layers = Sequence[tuple[str, QuantizedMatrix]]


class WeightObjective(Objective):
    """Base of terms that read weights instead of outputs.

    Every micro-batch and every process has the same term, and they count by their examples as those of other terms:
    the gradient of a step is that of the term once, however the step is cut.

    Raises:
        ValueError: for a student without quantized matrices.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module | None = None, weight: float = 1.0):
        super().__init__(student, teacher, weight)
        self._layers = tuple(matrices(student))  # in a tuple: no submodules
        if not self._layers:
            raise ValueError(
                f"{type(self).__name__} reads quantized weights, and this {type(student).__name__} has none"
            )

    @abstractmethod
    def of_weights(self, layers: Layers) -> Tensor:
        """The unweighted term, a scalar in float32.

        Args:
            layers: relative name and layer of every quantized matrix, each once.
        """

    @in_float32
    def forward(self, student: Signals, teacher: Signals | None, batch: Mapping[str, Tensor]) -> Tensor:
        return self.of_weights(self._layers)
