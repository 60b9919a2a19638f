"""Everything that one training step runs, as the module that is wrapped, compiled and synchronised."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ...core import ModelShape
from ...nn import usages
from ...nn.elastic import Elastic
from ...nn.features import FeatureRecorder
from ...nn.heads import infer_labels
from ...nn.running import forward_inputs, real_tokens
from ...nn.together import quantized_together
from ...search.schedules import Schedule
from ...search.strategies import WEIGHTS, Pass, Progress, SearchStrategy
from ...weights.joined import joined_once
from ..objectives import Objective, Signals
from .forward_names import forward_names, named_inputs

PENALTY = "penalty"
"""Name of what strategy and schedules add to the loss."""


class StageModule(nn.Module):
    """A student with its objectives; teacher and strategy are kept where no optimizer and no checkpoint finds them.

    Args:
        student: the model that is trained.
        objectives: name to term.
        teacher: a float model, put into eval mode; needed where an objective needs one.
        strategy: the search of this stage, or None.
        schedules: name to schedule.
        elastic: runs sub-nets of the student, for passes that have a shape.

    Attributes:
        running: the pass of a training step that is on, and where training is; empty outside of steps.
        penalty: what strategy and schedules ask in it, once its forward pass is done; None for nothing.
        teaching: names of the passes of a step whose signals later passes want.
        compiled: whether the student is compiled as a whole.
    """

    def __init__(
        self,
        student: nn.Module,
        objectives: Mapping[str, Objective],
        teacher: nn.Module | None = None,
        strategy: SearchStrategy | None = None,
        schedules: Mapping[str, Schedule] | None = None,
        elastic: Elastic | None = None,
    ):
        super().__init__()
        self.student, self.objectives = student, nn.ModuleDict(objectives)
        needed = any(one.needs_teacher for one in objectives.values())
        self._teachers = (teacher.eval(),) if needed else ()  # in a tuple: not a submodule
        self._strategy, self.schedules, self._elastic = strategy, dict(schedules or {}), elastic
        self.running: tuple[Pass, Progress] | tuple[()] = ()
        self.penalty: Tensor | None = None
        self.compiled = False
        self.teaching: frozenset[str] = frozenset()
        self._known: dict[str, Signals] = {}  # of earlier passes
        self._taught: list[tuple[tuple[Tensor, ...], Signals]] = []  # of the float model, with the batch that it saw
        self._needs_labels = any(one.needs_labels for one in objectives.values())
        names = {name for one in objectives.values() for name in one.features}
        self._recorders = tuple(FeatureRecorder(model, names) for model in (student, *self._teachers)) if names else ()
        self._features, self._of_subnets = names, dict[ModelShape, FeatureRecorder]()

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
        with joined_once():
            return self._terms(the_pass, progress, outputs, batch)

    def _terms(self, the_pass: Pass, progress: Progress | None, outputs: bool, batch: Mapping[str, Tensor]) -> Any:
        for model in (self.student, *self._teachers):
            infer_labels(model, batch.get("labels"))
        inputs = batch if self._needs_labels else forward_inputs(self.student, batch)
        student = self._signals(0, self.student, inputs) if the_pass.shape is None else self._subnet(the_pass, inputs)
        teacher = self._teacher_of(the_pass, batch)
        if the_pass.name in self.teaching:
            self._known[the_pass.name] = student.detached()
        chosen = [name for name in self.objectives if the_pass.objectives is None or name in the_pass.objectives]
        terms = {name: self.objectives[name](student, teacher, batch) for name in chosen}
        terms = self.with_penalty(terms, the_pass, progress)
        return (terms, student.outputs) if outputs else terms

    def begin(self, passes: Sequence[Pass]) -> None:
        """Forget what was known of the micro-batch before; these passes follow.

        Raises:
            ValueError: when one names a teacher that is no earlier pass, or a term that the stage does not have.
        """
        self._known, self._taught, earlier = {}, [], set()
        for one in passes:
            if one.teacher is not None and one.teacher not in earlier:
                raise ValueError(f"pass {one.name!r} is taught by {one.teacher!r}, no earlier pass of the step")
            unknown = sorted((one.objectives or frozenset()) - set(self.objectives))
            if unknown:
                raise ValueError(f"pass {one.name!r} names {unknown}; the stage has {', '.join(self.objectives)}")
            reading = [name for name, term in self.objectives.items() if term.features and not term.of_subnets]
            asked = set(reading) & (one.objectives or set(self.objectives))
            if one.shape is not None and asked:
                raise ValueError(
                    f"pass {one.name!r} runs a sub-net, and {min(asked)!r} takes features of the whole model alone: "
                    "leave that objective out of the stage"
                )
            earlier.add(one.name)
        self.teaching = frozenset(one.teacher for one in passes if one.teacher is not None)

    @torch.no_grad()
    def _teacher_of(self, the_pass: Pass, batch: Mapping[str, Tensor]) -> Signals | None:
        """Signals of an earlier pass, or of the float model, which sees each batch once for all passes."""
        if the_pass.teacher is not None:
            return self._known[the_pass.teacher]
        if not self._teachers:
            return None
        for tensors, signals in self._taught:
            if len(tensors) == len(batch) and all(one is other for one, other in zip(tensors, batch.values())):
                return signals
        self._taught.append(
            ((*batch.values(),), self._signals(1, self._teachers[0], forward_inputs(self._teachers[0], batch)))
        )
        return self._taught[-1][1]

    def weigh(self, name: str) -> float:
        """Weight of a term in the loss."""
        return 1.0 if name == PENALTY else self.objectives[name].weight

    def units(self, batch: Mapping[str, Tensor]) -> dict[str, int]:
        """Of how many things in a batch each term is the mean; the penalty counts like examples."""
        counts = {name: objective.units(batch) for name, objective in self.objectives.items()}
        return {**counts, PENALTY: len(next(iter(batch.values())))}

    def close(self) -> None:
        """Take every hook off the models."""
        for recorder in (*self._recorders, *self._of_subnets.values()):
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
        with recording as features, quantized_together(model) if self._joins(model) else nullcontext():
            outputs = model(**named_inputs(model, inputs))
        return Signals(outputs, features, real_tokens(inputs))

    def _joins(self, model: nn.Module) -> bool:
        """Whether a forward pass quantizes what is alike in one call."""
        return model is self.student and not self.compiled and not getattr(model, "is_gradient_checkpointing", False)

    @torch.compiler.disable
    def _subnet(self, the_pass: Pass, inputs: Mapping[str, Tensor]) -> Signals:
        """What a sub-net of the student gives."""
        shape, recording = the_pass.shape, nullcontext({})
        if self._features:
            if shape not in self._of_subnets:
                self._of_subnets[shape] = FeatureRecorder(self._elastic.skeleton(shape), self._features)
            recording = self._of_subnets[shape].recording()
        with recording as features:
            outputs = self._elastic(shape, **named_inputs(self.student, inputs))
        return Signals(outputs, features, real_tokens(inputs), part=True)

    @torch.compiler.disable
    def with_penalty(self, found: Any, the_pass: Pass | None = None, progress: Progress | None = None) -> Any:
        """Outputs or terms with the penalty of a pass, which is kept as well."""
        self.penalty = None if the_pass is None else self._penalty(the_pass, progress)
        if self.penalty is None:
            return found
        if isinstance(found, tuple):
            return (*found, self.penalty)
        found[PENALTY] = self.penalty
        return found

    def _penalty(self, the_pass: Pass, progress: Progress) -> Tensor | None:
        """Of strategy and schedules in a pass; None where they ask for nothing."""
        with torch.autocast(next(self.student.parameters()).device.type, enabled=False):
            parts = [self._strategy.penalty(usages(self.student), progress)] if the_pass.penalised else []
            if WEIGHTS in the_pass.updates:
                parts += [schedule.penalty(self.student, progress) for schedule in self.schedules.values()]
        asked = [part for part in parts if part is not None]
        return sum(asked[1:], asked[0]) if asked else None
