"""The joint search: one pass trains weights and gates."""

from .base import GATE_PARAMETERS, MODEL_PARAMETERS, STRATEGIES, Pass, Progress
from .bilevel import WEIGHT_PASS
from .gate_search import WarmGateSearch

JOINT_PASS = Pass("joint", MODEL_PARAMETERS | {GATE_PARAMETERS}, penalised=True)


@STRATEGIES.register("joint")
class Joint(WarmGateSearch):
    """Weights and gates learn together from every batch, as in the follow-up of Risso et al. (Motetti et al., 2024).

    Ours besides: it starts from the training-free assignment, each sub-group as sure as its margin is large; the gates
    take Adam's normalised steps, because a single logit's gradient is tiny, with a short memory (betas 0.5 and 0.99),
    so that a penalty that is over is forgotten; and the result is projected into the budget, which takes the likeliest
    assignment that meets it.

    Arguments are those of `WarmGateSearch`.
    """

    needs_scores = True
    defaults = {  # noqa: RUF012
        "start": "scores",
        "temperature": (1.0, 0.2),
        "optimizer": "adam",
        "learning_rate": 0.02,
        "optimizer_options": {"betas": (0.5, 0.99)},
        "penalty": "relative",
        "decision": "projection",
    }

    def passes(self, progress: Progress) -> tuple[Pass, ...]:
        """One pass for everything; for the weights alone during the warm-up."""
        return (WEIGHT_PASS,) if progress.step < self.idle(progress) else (JOINT_PASS,)
