"""The contract of every search strategy."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from ...core import Assignment, ModelShape, PrecisionSpace, Registry, StageSpec, Usage
from ...cost import Limit, Limits
from ...nn.walk import derive
from ...weights.roles import GATE_PARAMETERS as GATE_PARAMETERS
from ...weights.roles import QUANTIZER_PARAMETERS as QUANTIZER_PARAMETERS
from ...weights.roles import WEIGHTS
from ..allocators.base import Scores
from ..allocators.members import check_patterns
from ..judge import Judge
from ..subnets import SubNets

STRATEGIES: Registry[type["SearchStrategy"]] = Registry("search strategy")
MODEL_PARAMETERS = frozenset({WEIGHTS, QUANTIZER_PARAMETERS})
"""All that is no gate's: weights, and steps, ranges and offsets of quantizers. Passes update these two groups and
`GATE_PARAMETERS`."""
HIGHEST, DRAWN = "highest", "drawn"
"""Paths by their names: the highest precisions that the gates allow, and one that is drawn for the pass."""


@dataclass(frozen=True)
class Progress:
    """Where training is, the same in every process and after a resume.

    Attributes:
        step: optimizer steps done, from 0.
        steps: of the whole stage.
        steps_per_epoch: of one epoch.
        search_steps: the last so many steps of each epoch go through the search slice; 0 unless the strategy splits
            epochs.
        seed: of the stage's random choices.
    """

    step: int
    steps: int
    steps_per_epoch: int
    search_steps: int = 0
    seed: int = 0

    @property
    def fraction(self) -> float:
        """Share of the stage that is done, 0 to 1."""
        return self.step / max(self.steps, 1)

    @property
    def epoch(self) -> int:
        """Epochs done, from 0."""
        return self.step // max(self.steps_per_epoch, 1)

    @property
    def in_search_slice(self) -> bool:
        """Whether this step's batch comes from the search slice."""
        return self.step % max(self.steps_per_epoch, 1) >= self.steps_per_epoch - self.search_steps


@dataclass(frozen=True)
class Pass:
    """One forward and backward inside a training step.

    Attributes:
        name: in logs.
        updates: parameter groups (`"weights"`, `"quantizers"`, `"gates"`) that its gradients are for; those of others
            are dropped, and no optimizer touches what has none.
        data: `"step"`, the batch of the step, or `"search"`, one of the search slice.
        penalised: whether the strategy's penalty is added to the loss.
        precision: that a nested model is switched to for it; None leaves the model as it is.
        share: factor of its loss.
        path: relative name of a matrix to the candidate that each of its sub-groups takes, `(groups,)` positions; the
            gates of all others choose. Or `"highest"`, the highest precisions that open gates allow, or `"drawn"`, one
            that is drawn evenly from what they allow: another in each pass and step, the same in all processes and
            micro-batches. None leaves the choice to every gate.
        objectives: names of the stage's terms that it has; None for all.
        shape: of the sub-net that runs in the model's place, with the model's own parameters; None runs the whole.
        teacher: name of an earlier pass of the same step, whose detached signals teach it in the float model's place.
    """

    name: str = "train"
    updates: frozenset[str] = MODEL_PARAMETERS
    data: str = "step"
    penalised: bool = False
    precision: int | None = None
    share: float = 1.0
    path: Mapping[str, Tensor] | str | None = None
    objectives: frozenset[str] | None = None
    shape: ModelShape | None = None
    teacher: str | None = None


class SearchStrategy(ABC):
    """How precisions are searched while weights are trained.

    It has no state but what is in the model (gates and their temperatures) and what `state_dict` gives: everything
    else is a function of `Progress`, so that a resumed search is the uninterrupted one.

    Args:
        space: what may be chosen.
        limits: cost models with what each must not exceed, the main one first; without a budget one that has no amount.

    Attributes:
        split: what the search slice of the training set is for: None (there is none), `"steps"` (passes ask for
            batches of it) or `"epochs"` (each epoch goes through the rest, then through the slice).
        searches: whether it decides precisions; one that only says which passes a step has runs where nothing is open.
        shapes: whether it decides the shape of the model, through `take_subnets`; it does where no precision is open.
        keeps_limit: whether what `derive` decides costs no more than `limit`.
        combine: how the gradients of its passes become one, a name in `hf_mpq.training.gradients.COMBINERS`.
    """

    searches: ClassVar[bool] = True
    shapes: ClassVar[bool] = False
    keeps_limit: bool = False
    combine: str = "sum"
    split: ClassVar[str | None] = None
    needs_scores: ClassVar[bool] = False
    """Whether `prepare` wants training-free scores."""

    def __init__(self, space: PrecisionSpace, limits: Limits):
        check_patterns(space)
        self.space, self.limits = space, tuple(Limit(*one) for one in limits)

    def take_subnets(self, subnets: SubNets) -> None:  # noqa: B027
        """Learn of the sub-nets of the model, before `prepare`; called where it decides a shape."""

    def prepare(self, model: nn.Module, scores: Scores | None = None) -> None:  # noqa: B027
        """Set the start of the gates, once, before the first step."""

    @abstractmethod
    def passes(self, progress: Progress) -> tuple[Pass, ...]:
        """The passes of one step; the same for every micro-batch of it."""

    def gate_optimizer(self) -> tuple[str, dict[str, Any]]:
        """Optimizer of the gates: `"sgd"` or `"adam"`, with its keyword arguments."""
        return "adam", {"lr": 0.0}

    def gate_rate(self, steps: int) -> float | None:
        """Learning rate of the gates in a stage of so many steps; None keeps that of their optimizer."""
        return None

    def schedule(self, model: nn.Module, progress: Progress) -> None:  # noqa: B027
        """Set what depends on time (temperatures, noise), once before each step: all its micro-batches share it."""

    def penalty(self, usages: Mapping[str, Usage], progress: Progress) -> Tensor | None:
        """What is added to the loss of penalised passes, a differentiable scalar; None for nothing."""
        return None

    def derive(self, model: nn.Module, judge: Judge | None = None) -> tuple[nn.Module, Assignment]:
        """The decision, and the model that it is for: the same one, unless the search built another. Without a search
        it is what the model has.

        Args:
            model: at the end of its stage.
            judge: measures assignments on it as it is, for searches that compare some; None where nobody measures.
        """
        return model, derive(model)

    def metrics(self, model: nn.Module) -> dict[str, float]:
        """What logs show of the search now."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What is saved beside the model."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Take back what `state_dict` gave."""


def searches_shapes(stages: Iterable[StageSpec]) -> bool:
    """Whether one of these stages chooses the model's shape by milliseconds, so that a budget decides nothing."""
    return any(stage.strategy is not None and STRATEGIES[stage.strategy].shapes for stage in stages)
