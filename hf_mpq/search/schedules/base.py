"""The contract of every schedule."""

from abc import ABC
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ...core import Registry
from ..strategies.base import Progress

SCHEDULES: Registry[type["Schedule"]] = Registry("schedule", home="hf_mpq.search.schedules")


class Schedule(ABC):  # noqa: B024
    """Changes a model by time while a stage trains it: masks, projections, re-initialisation, freezing.

    A stage may have any number of them; each is called in the order in which the stage names them. It has no state but
    what is in the model and what `state_dict` gives: everything else is a function of `Progress`, so that a resumed
    stage is the uninterrupted one. Every process calls the same with the same weights.
    """

    def prepare(self, model: nn.Module) -> None:  # noqa: B027
        """Once, before the first step; not when a stage is resumed.

        Raises:
            ValueError: when there is nothing in the model that it could change.
        """

    def before_step(self, model: nn.Module, progress: Progress) -> None:  # noqa: B027
        """Before the passes of a step, once for all its micro-batches."""

    def penalty(self, model: nn.Module, progress: Progress) -> Tensor | None:
        """What is added to the loss of every pass that trains weights, a differentiable scalar; None for nothing."""
        return None

    def after_step(self, model: nn.Module, progress: Progress) -> None:  # noqa: B027
        """After the optimizer's step, outside autograd; `progress` counts the step as done."""

    def rate(self, step: int, steps: int, warmup: int) -> float | None:
        """The learning rate of a step, as a share of the largest; None, as here, leaves it to the arguments.

        At most one schedule of a stage says it.

        Args:
            step, steps: done, and of the stage.
            warmup: steps of the warm-up.
        """
        return None

    def finish(self, model: nn.Module) -> None:  # noqa: B027
        """Once, after the last step, outside autograd."""

    def metrics(self, model: nn.Module) -> dict[str, float]:
        """What logs show of it now."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What is saved beside the model: tensors and plain data."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Take back what `state_dict` gave."""
