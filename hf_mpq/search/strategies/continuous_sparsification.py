"""CSQ's search: bits that are chosen by letting soft ones become hard."""

from torch import nn

from ...core import PrecisionSpace
from ...cost import Limits
from ..allocators.base import Scores
from .base import STRATEGIES
from .joint import Joint
from .plane_memory import check_memory


@STRATEGIES.register("continuous-sparsification")
class ContinuousSparsification(Joint):
    """The bi-level continuous sparsification of CSQ (Xiao et al., DAC 2023): values of bit planes and the gates that
    select planes learn together from every batch while their sigmoids grow sharper, `beta` from 1 to 200 evenly in the
    logarithm. The temperature is one over it. The budget takes planes away, and brings them back where there is room.

    It is for `gate="planes"` and `source="planes"`; other gates are searched with the same temperatures. The result is
    projected into the budget by how much each plane is wanted.

    Args:
        learning_rate: of the gates, by Adam; None takes what moves a gate by `REACH` of its start in the stage, so that
            a short one gets there too.
        options: of `WarmGateSearch`.
    """

    REACH = 10.0
    defaults = {  # noqa: RUF012
        "start": "zeros",
        "temperature": (1.0, 1 / 200),
        "optimizer": "adam",
        "learning_rate": 0.02,
        "optimizer_options": {"betas": (0.5, 0.99)},
        "penalty": "signed-excess",
        "decision": "projection",
    }

    def __init__(self, space: PrecisionSpace, limits: Limits, learning_rate: float | None = None, **options):
        super().__init__(space, limits, learning_rate=learning_rate, **options)
        self._paced = learning_rate is None

    def prepare(self, model: nn.Module, scores: Scores | None = None) -> None:
        """Raises ValueError also where bit planes and their optimizer do not fit into the memory that is free."""
        check_memory(model)
        super().prepare(model, scores)

    def gate_rate(self, steps: int) -> float | None:
        if not self._paced or self.optimizer != "adam":
            return None
        return self.REACH / max(steps * (1 - self.warmup), 1)
