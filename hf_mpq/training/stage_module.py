"""Everything that one training step runs, as the module that is wrapped, compiled and synchronised."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..nn import usages
from ..nn.features import FeatureRecorder
from ..nn.running import forward_inputs, real_tokens
from ..search.strategies import Pass, Progress, SearchStrategy
from .forward_names import forward_names, named_inputs
from .objectives import Objective, Signals

PENALTY = "penalty"
"""Name of the strategy's term."""


class StageModule(nn.Module):
    """A student with its objectives; teacher and strategy are kept where no optimizer and no checkpoint finds them.

    Args:
        student: the model that is trained.
        objectives: name to term.
        teacher: a float model, put into eval mode; needed where an objective needs one.
        strategy: the search of this stage, or None.

    Attributes:
        running: the pass of a training step that is on, and where training is; empty outside of steps.
        penalty: what the strategy asks in it, once a forward pass of a penalised one is done.
    """

    def __init__(self, student: nn.Module, objectives: Mapping[str, Objective], teacher: nn.Module | None = None,
                 strategy: SearchStrategy | None = None):  # fmt: skip
        super().__init__()
        self.student, self.objectives = student, nn.ModuleDict(objectives)
        needed = any(one.needs_teacher for one in objectives.values())
        self._teachers = (teacher.eval(),) if needed else ()  # in a tuple: not a submodule
        self._strategy = strategy
        self.running: tuple[Pass, Progress] | tuple[()] = ()
        self.penalty: Tensor | None = None
        self._needs_labels = any(one.needs_labels for one in objectives.values())
        names = {name for one in objectives.values() for name in one.features}
        self._recorders = tuple(FeatureRecorder(model, names) for model in (student, *self._teachers)) if names else ()

    @property
    def config(self) -> Any:
        """Of the student."""
        return self.student.config

    @property
    def columns(self) -> tuple[str, ...]:
        """Inputs that the student or the teacher reads."""
        return tuple(dict.fromkeys(name for model in (self.student, *self._teachers) for name in forward_names(model)))

    @torch.compiler.disable(recursive=False)
    def forward(
        self, the_pass: Pass | None = None, progress: Progress | None = None, outputs: bool = False, **batch: Tensor
    ) -> Any:
        """Without a pass the student's outputs; with one its terms, name to an unweighted mean in float32, and with
        `outputs` those of the student after them.

        In a penalised pass either holds the strategy's penalty: what is returned is synchronised between processes.
        """
        if the_pass is None:
            return self.with_penalty(self.student(**named_inputs(self.student, batch)), *self.running)
        inputs = batch if self._needs_labels else forward_inputs(self.student, batch)
        student = self._signals(0, self.student, inputs)
        teacher = None
        if self._teachers:
            with torch.no_grad():
                teacher = self._signals(1, self._teachers[0], forward_inputs(self._teachers[0], batch))
        terms = {name: objective(student, teacher, batch) for name, objective in self.objectives.items()}
        terms = self.with_penalty(terms, the_pass, progress)
        return (terms, student.outputs) if outputs else terms

    def weigh(self, name: str) -> float:
        """Weight of a term in the loss."""
        return 1.0 if name == PENALTY else self.objectives[name].weight

    def units(self, batch: Mapping[str, Tensor]) -> dict[str, int]:
        """Of how many things in a batch each term is the mean; the penalty counts like examples."""
        counts = {name: objective.units(batch) for name, objective in self.objectives.items()}
        return {**counts, PENALTY: len(next(iter(batch.values())))}

    def close(self) -> None:
        """Take every hook off the models."""
        for recorder in self._recorders:
            recorder.remove()

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        """Of the student; not reentrant unless asked for, because features lose their gradients in a reentrant one."""
        kwargs = {"use_reentrant": False, **(activation_checkpointing_kwargs or {})}
        if hasattr(self.student, "activation_checkpointing_enable"):
            self.student.activation_checkpointing_enable(kwargs, **options)
        else:
            self.student.gradient_checkpointing_enable(kwargs, **options)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        """Older name of `activation_checkpointing_enable`."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **options)

    @torch.compiler.disable(recursive=False)
    def _signals(self, place: int, model: nn.Module, inputs: Mapping[str, Tensor]) -> Signals:
        recording = self._recorders[place].recording() if self._recorders else nullcontext({})
        with recording as features:
            outputs = model(**named_inputs(model, inputs))
        return Signals(outputs, features, real_tokens(inputs))

    @torch.compiler.disable
    def with_penalty(self, found: Any, the_pass: Pass | None = None, progress: Progress | None = None) -> Any:
        """Outputs or terms with the penalty of a pass, which is kept as well."""
        if the_pass is None or not the_pass.penalised:
            return found
        with torch.autocast(next(self.student.parameters()).device.type, enabled=False):
            self.penalty = self._strategy.penalty(usages(self.student), progress)
        if isinstance(found, tuple):
            return (*found, self.penalty)
        found[PENALTY] = self.penalty
        return found
