"""AQ-BERT's search: weights and gates learn from different data, in turn."""

from dataclasses import replace
from typing import ClassVar

from .base import GATE_PARAMETERS, STRATEGIES, Pass, Progress
from .gate_search import GateSearch
from .temperature import Temperature, epochs

WEIGHT_PASS = Pass("weights")
GATE_PASS = Pass("gates", frozenset({GATE_PARAMETERS}), penalised=True)


@STRATEGIES.register("bilevel")
class Bilevel(GateSearch):
    """Algorithm 1 of AQ-BERT (Zhao et al., IJCAI 2021).

    Each epoch trains the weights on its first part; then, in epochs after the first N1, the gates on the search slice,
    with the size penalty, by plain SGD at 0.1. Each sub-group ends with its likeliest precision.

    First order: the gates' gradient is taken at the present weights (xi = 0), not through a step of them (DARTS). The
    paper prints the second order and says that both agree near the inner optimum, but not which one was run.

    The paper gives no temperature, N0 or N1. Here the temperature falls from 5 to 0.3, which it has in the last epoch
    (at the end of the only one, step by step).

    Args:
        warmup_epochs: N1, at most half of the stage's epochs; also N0, where `temperature` does not say `wait`.
        options: of `GateSearch`.
    """

    split: ClassVar[str | None] = "epochs"
    defaults = {  # noqa: RUF012
        "start": "zeros",
        "temperature": Temperature(5.0, 0.3, by_epoch=True),
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "penalty": "log-band",
        "decision": "argmax",
    }

    def __init__(self, space, limits, warmup_epochs: int = 1, **options):
        super().__init__(space, limits, **options)
        self.warmup_epochs = warmup_epochs

    def passes(self, progress: Progress) -> tuple[Pass, ...]:
        """A weight pass, or in the search slice a gate pass; nothing there during the warm-up."""
        if not progress.in_search_slice:
            return (WEIGHT_PASS,)
        return () if progress.step < self.idle(progress) else (GATE_PASS,)

    def idle(self, progress: Progress) -> int:
        return self._warmup(progress) * progress.steps_per_epoch

    def temperature_at(self, progress: Progress) -> float:
        """By the epochs of the whole stage, for N0 counts them."""
        own, count = self.temperature, epochs(progress)
        if own.end is not None and count == 1:
            return replace(own, by_epoch=False).at(progress)
        wait = min(self._warmup(progress), count - 2) if own.end is not None else self._warmup(progress)
        return replace(own, wait=max(wait, 0) if own.wait is None else own.wait).at(progress)

    def _warmup(self, progress: Progress) -> int:
        """Epochs before the gates move."""
        return min(self.warmup_epochs, epochs(progress) // 2)
