"""FDQ's phases: weights first, then quantizers and gates now and then beside them."""

from ...core import PrecisionSpace
from ...cost import Limits
from .base import GATE_PARAMETERS, MODEL_PARAMETERS, STRATEGIES, WEIGHTS, Pass, Progress
from .gate_search import WarmGateSearch

WEIGHTS_ALONE = Pass("weights", frozenset({WEIGHTS}))
EVERYTHING = Pass("joint", MODEL_PARAMETERS | {GATE_PARAMETERS}, penalised=True)


@STRATEGIES.register("phases")
class Phases(WarmGateSearch):
    """The phases of FDQ (Schaefer et al., 2022): weights alone under the grids that they start with; then weights in
    every step, and quantizers and gates in every 20th, with the penalty. Its last phase, with quantizers that stand
    still, is a stage of its own: `StageSpec(trainable=("weights",))`.

    Between those steps quantizers and gates have no gradient, and so neither momentum nor anything else moves them; the
    paper multiplies their gradients by 0, under which momentum coasts on. Gates have the strategy's learning rate all
    the time, relative to their size where they are steps: 0.1 by default, for a fine-tuning has few 20th steps, with a
    short memory (betas 0.5 and 0.99), so that a penalty that is over is forgotten.

    Ours: the paper goes on from the best checkpoint that met both budgets; here the last state is projected into them.

    Args:
        every: steps from one update of quantizers and gates to the next, counted from the stage's first.
        options: of `WarmGateSearch`; `warmup` is the share of the first phase.

    Raises:
        ValueError: for less than one step.
    """

    defaults = {  # noqa: RUF012
        "start": "zeros",
        "temperature": 1.0,
        "optimizer": "adam",
        "learning_rate": 0.1,
        "optimizer_options": {"betas": (0.5, 0.99)},
        "penalty": "squared",
        "decision": "projection",
    }

    def __init__(self, space: PrecisionSpace, limits: Limits, every: int = 20, **options):
        super().__init__(space, limits, **options)
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"quantizers move every so many steps, a whole number of at least 1; got {every!r}")
        self.every = every

    def passes(self, progress: Progress) -> tuple[Pass, ...]:
        """One pass, for everything in the steps 20, 40 and so on after the first phase, else for the weights."""
        due = (progress.step + 1) % self.every == 0 and progress.step >= self.idle(progress)
        return (EVERYTHING,) if due else (WEIGHTS_ALONE,)
