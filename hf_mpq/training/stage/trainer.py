"""One stage of a run: an ordinary Trainer whose steps are the passes of a strategy."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer_utils import TrainOutput

from ...core.inputs import LABELS
from ...nn.walk import served_precisions, set_precision, take_path
from ...search.strategies import Pass, Progress, SearchStrategy
from ...weights.roles import parameters_by_precision
from ..arguments import MPQTrainingArguments
from ..callbacks import UpdateQuantizers
from ..gradients import PassGradients
from .batches import StageBatches
from .checkpoints import StageCheckpoints
from .metrics import RunningMeans
from .module import PENALTY, StageModule
from .optimizer import ParameterGroups, hold_gate_rates, scheduled_rate, stage_optimizer
from .paths import with_path
from .progress import FollowProgress
from .sampling import SeededCollator
from .scaler import IdleStepScaler
from .stopping import TrainingStopped
from .totals import Totals


def plain_passes(student: nn.Module) -> tuple[Pass, ...]:
    """The passes of a step without a strategy: one, or one at each precision of a nested model; the step's loss is
    their mean."""
    served = served_precisions(student)
    return tuple(Pass(f"{bits} bits", precision=bits, share=1 / len(served)) for bits in served) or (Pass(),)


class StageTrainer(StageBatches, StageCheckpoints, Trainer):
    """Trains a stage module for one stage.

    A step's gradient is that of the whole batch: terms count by what they are the mean of, over micro-batches and
    processes alike. Gradients that a pass is not for are dropped; `requires_grad` is never changed, so that DDP and
    compiled graphs stay as they are. A checkpoint and a stop that are asked for within a step, as transformers does at
    a SIGTERM, wait for its end.

    Args:
        module: student, objectives, teacher and strategy.
        args: of this stage.
        strategy: the search, or None.
        seed: of the data's order and of the search slice; the same for all stages.
        number: of the stage in its run, from 1; logged as `stage`.
        facts: what stays as it is during the stage, for the logs.
        trainable: what the stage trains; see `StageSpec`.
        options: other arguments of `Trainer`.

    Raises:
        ValueError: for arguments that cannot work together.
    """

    def __init__(
        self,
        module: StageModule,
        args: MPQTrainingArguments,
        strategy: SearchStrategy | None = None,
        seed: int = 0,
        number: int = 1,
        facts: Mapping[str, float] | None = None,
        trainable: Collection[str] | None = None,
        **options: Any,
    ):
        self.strategy, self.order_seed, self.number, self._facts = strategy, seed, number, facts or {}
        self.groups = ParameterGroups.of(module, trainable)
        self._means, self._search_batches, self._begun, self.stops = RunningMeans(), None, None, False
        module.compiled = args.torch_compile
        self._passes, self._sampler = plain_passes(module.student), None
        merged = strategy is not None and strategy.combine != "sum"
        own = parameters_by_precision(module.student)
        self._gradients = PassGradients(self.groups.every, strategy.combine, own) if merged else None
        callbacks = [FollowProgress(self), UpdateQuantizers(), *(options.pop("callbacks", None) or [])]
        super().__init__(module, args, callbacks=callbacks, **options)
        self.data_collator = SeededCollator(self.data_collator, seed)
        self.model_accepts_loss_kwargs = False
        if args.n_gpu > 1:
            raise ValueError(
                "one process cannot train on several GPUs: start one for each, with `accelerate launch`, "
                "or set CUDA_VISIBLE_DEVICES=0"
            )
        if strategy is not None and strategy.split is not None and not hasattr(self.train_dataset, "__len__"):
            raise ValueError("this search keeps a slice of the training set, so it needs one that has a length")
        self._plan_epochs()

    def create_accelerator_and_postprocess(self) -> None:
        """The accelerator, with a gradient scaler for steps that have no pass."""
        super().create_accelerator_and_postprocess()
        if self.accelerator.scaler is not None:
            self.accelerator.scaler = IdleStepScaler(self.accelerator.device)

    def train_to_end(self, checkpoint: Path | None = None) -> TrainOutput:
        """Train from a checkpoint, or from the start, and take every hook off the models.

        Raises:
            TrainingStopped: when training ended before its last step.
        """
        self._totals = Totals(self.args.device)
        if checkpoint is None:
            for schedule in self.model.schedules.values():
                schedule.prepare(self.model.student)
        try:
            output = self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        finally:
            self.model.close()
        done, steps = self.state.global_step, self.state.max_steps
        if done < steps:
            raise TrainingStopped(
                f"{self.args.output_dir} was stopped at step {done} of {steps}, by a callback, a "
                "signal or the end of its data, and is not finished: "
                "train(resume_from_checkpoint=True) goes on from its last checkpoint"
            )
        for schedule in self.model.schedules.values():
            schedule.finish(self.model.student)
        self._totals.share(self.accelerator)
        return TrainOutput(done, self._totals.mean(done), {**output.metrics, "train_runtime": self._totals.seconds})

    @property
    def progress(self) -> Progress:
        """Where training is."""
        return Progress(
            self.state.global_step, self.state.max_steps, self.steps_per_epoch, self._search_steps, self.args.seed
        )

    # Steps

    @property
    def in_step(self) -> bool:
        """Whether a step's batches are there, and its optimizer step is not done."""
        return self._begun == self.state.global_step

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Without a checkpoint where a callback broke off a step between its micro-batches."""
        self.control.should_save = self.control.should_save and not self.in_step
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def stop_after_step(self) -> None:
        """Save a checkpoint and stop, but not before the step is done."""
        self.stops, self.control.should_training_stop = True, False

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One micro-batch; returns its share of the step's loss."""
        loss = self.run_passes(model, inputs, num_items_in_batch)
        self._totals.add(loss)
        self._micro += 1
        return loss

    def run_passes(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Every pass of one micro-batch."""
        model.train()
        total = torch.zeros((), device=self.args.device)
        passes = self._passes if self.strategy is None else self.strategy.passes(self.progress)
        self.model.begin(passes)
        kinds = {one.data for one in passes}
        batches = {
            kind: self._prepare_inputs(self._search_samples[self._micro] if kind == "search" else inputs)
            for kind in kinds
        }
        try:
            for number, one in enumerate(passes):
                units = self._search_units if one.data == "search" else self._units
                one = with_path(one, number, self.model.student, self.progress)
                total += self._run_pass(model, one, batches[one.data], units)
        finally:  # between steps, and where one was interrupted, a model is what it is saved as
            self._leave(passes)
        if self._gradients is not None and self.accelerator.sync_gradients:
            self._gradients.merge()
        return total

    def _leave(self, passes: Sequence[Pass]) -> None:
        for one in passes:
            self._leave_path(one)
        if any(one.precision is not None for one in passes):
            set_precision(self.model.student, served_precisions(self.model.student)[-1])

    def _leave_path(self, one: Pass) -> None:
        if one.path is not None:
            take_path(self.model.student, {})

    def _run_pass(self, model: nn.Module, one: Pass, batch: Mapping[str, Any], units: Mapping[str, float]) -> Tensor:
        stage = self.model
        if one.precision is not None:
            set_precision(stage.student, one.precision)
        if one.path is not None:
            take_path(stage.student, one.path)
        own = stage.units(batch)
        self._shares = {name: own[name] * self.args.world_size / max(units[name], 1.0) for name in own}
        stage.running, stage.penalty = (one, self.progress), None
        try:
            with self.compute_loss_context_manager():
                loss = self.compute_loss(model, dict(batch)) * self._shares[PENALTY]
            if stage.penalty is None:  # perhaps a loss without a forward pass
                stage.with_penalty({}, *stage.running)
        finally:
            stage.running = ()
        if stage.penalty is not None:
            loss = loss + self._part(PENALTY, stage.penalty)
        with nullcontext() if self._gradients is None else self._gradients.of(one.name):
            found = self._backward(loss * one.share, one.updates)
        self._leave_path(one)
        return found

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """In a step the weighted sum of the stage's terms, as a mean over the examples of the micro-batch, without the
        strategy's penalty; in evaluation the model's own loss."""
        if not self.model.running:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        found = model(*self.model.running, outputs=return_outputs, **inputs)
        terms, outputs = found if return_outputs else (found, None)
        terms.pop(PENALTY, None)
        parts = [self.model.weigh(name) * self._part(name, term) for name, term in terms.items()]
        loss = sum(parts, torch.zeros((), device=self.args.device)) / self._shares[PENALTY]
        return (loss, outputs) if return_outputs else loss

    def _part(self, name: str, term: Tensor) -> Tensor:
        """What a micro-batch's term adds to that of the step."""
        part = term * self._shares[name]
        self._means.add(name, part, starts=self._micro == 0)
        return part

    def _backward(self, loss: Tensor, updates: frozenset[str]) -> Tensor:
        held = [(parameter, parameter.grad) for parameter in self.groups.held(updates)]
        for parameter, _ in held:
            parameter.grad = None
        self.accelerator.backward(loss)
        for parameter, gradient in held:
            parameter.grad = gradient
        return loss.detach()

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """Clip the weights' gradients; steps of scales and gates do not depend on how large theirs are."""
        weights = list(self.groups.weights.values())
        return self.accelerator.clip_grad_norm_(weights, self.args.max_grad_norm)

    def _prepare_for_training(self, *args: Any) -> tuple:
        """Callbacks see the model that is trained, not what is around it."""
        prepared = super()._prepare_for_training(*args)
        self.callback_handler.model = self.model.student
        return prepared

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """One optimizer for weights, scales and gates; see `stage_optimizer`."""
        if self.optimizer is None:
            weights = self.get_optimizer_cls_and_kwargs(self.args, self.model.student)
            rate = self.args.learning_rate * self.args.scale_learning_rate
            decayed = set(self.get_decay_parameter_names(self.model))
            self.optimizer = stage_optimizer(self.groups, self.strategy, weights, decayed, self.args.weight_decay, rate)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule of weights and scales."""
        fresh = self.lr_scheduler is None
        if fresh:
            self.lr_scheduler = scheduled_rate(
                self.model.schedules, optimizer or self.optimizer, num_training_steps, self.args
            )
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if fresh:
            hold_gate_rates(scheduler, self.strategy and self.strategy.gate_rate(num_training_steps))
        return scheduler

    # Logs and columns

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds the mean of every term since the last log, and what objectives and search show."""
        if "train_loss" in logs:
            self._totals.share(self.accelerator)
            logs.update(train_loss=self._totals.mean(self.state.global_step), train_runtime=self._totals.seconds)
        if "loss" in logs:
            logs.update({f"loss_{name}": value for name, value in self._means.take(self.accelerator).items()})
            for name, objective in self.model.objectives.items():
                logs.update({f"{name}_{key}": value for key, value in objective.metrics().items()})
            for schedule in self.model.schedules.values():
                logs.update(schedule.metrics(self.model.student))
            logs.update(self._facts)
            if self.strategy is not None:
                logs.update(self.strategy.metrics(self.model.student))
        super().log({"stage": self.number, **logs}, *args, **kwargs)

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            self._signature_columns = [*self.model.columns, *{*LABELS[1:], *self.label_names}]
