"""Channel-wise assignment's search: gates on a fifth of every epoch, weights on the rest."""

from typing import ClassVar

from .base import STRATEGIES, Pass, Progress
from .bilevel import GATE_PASS, WEIGHT_PASS
from .gate_search import WarmGateSearch


@STRATEGIES.register("alternating")
class Alternating(WarmGateSearch):
    """The search of Risso et al. (IGSC 2022): the gates learn on a search slice of each epoch while the weights stand
    still, and the weights on the rest while the gates do.

    The paper goes through the slice first; here it is the last part of the epoch. Its temperature is 5, times
    exp(-0.045) per epoch, over up to 500 epochs; for a few epochs of fine-tuning it falls here from 5 to 0.3 by steps.
    `temperature={"start": 5, "decay": 0.045}` is the paper's. The gates' SGD is the paper's.

    During the warm-up all data trains the weights. Arguments are those of `WarmGateSearch`.
    """

    split: ClassVar[str | None] = "epochs"
    defaults = {  # noqa: RUF012
        "start": "bits",
        "temperature": (5.0, 0.3),
        "optimizer": "sgd",
        "learning_rate": 0.01,
        "optimizer_options": {"momentum": 0.9, "weight_decay": 1e-4},
        "penalty": "hinge",
        "decision": "projection",
    }

    def passes(self, progress: Progress) -> tuple[Pass, ...]:
        """A weight pass, or in the search slice a gate pass once the warm-up is over."""
        searching = progress.in_search_slice and progress.step >= self.idle(progress)
        return (GATE_PASS,) if searching else (WEIGHT_PASS,)
