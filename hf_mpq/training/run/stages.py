"""One stage of a run: from the model that it begins with to its scores."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback, set_seed
from transformers.utils.generic import find_labels

from ...core import Assignment, BudgetError, Budgets, Part, PrecisionSpace, StageSpec
from ...cost import COSTS, LatencyTable, Limits
from ...cost.limit import carried_limits
from ...nn import calibrate_activations
from ...nn.walk import calibrate_weights, gates, is_open, set_rounding
from ...plugin import assignment_of, fix
from ...plugin.nested_budget import check_serves_one
from ...plugin.space import space_of
from ...runs.checkpoints import complete_checkpoints, remove_partial_checkpoints
from ...runs.files import MODEL
from ...runs.record import RunRecord
from ...search.allocators.start import check_possible
from ...search.schedules import SCHEDULES
from ...search.strategies import STRATEGIES, SearchStrategy, searches_shapes
from ..arguments import MPQTrainingArguments
from ..objectives import OBJECTIVES
from ..stage.module import StageModule
from ..stage.overrides import call_overrides
from ..stage.trainer import StageTrainer
from .fixed_metrics import fixed_metrics
from .plan import decides, stage_arguments, stage_folder, stage_length
from .subnets import StageSubNets


class StageRunner:
    """Mixin of the trainer of a whole run: trains, decides, saves and scores one stage after the other."""

    _stage: int | None = None
    """Number of the stage whose scores are being logged."""

    def _run_stage(self, number: int, stage: StageSpec, previous: str | None, record: RunRecord) -> None:
        folder = stage_folder(number, stage)
        assignment = None if decides(stage) else self._assignment(number, stage, previous, record)
        set_seed(self.args.seed + number)
        reshape = None if stage.reshape is None else Part(stage.reshape, **stage.reshape_options)
        student = self.students.start(stage.start, previous, assignment, reshape)
        strategy = self._strategy(stage, student, self._config.budgets, self._latencies)
        if strategy is not None and strategy.shapes:
            timed = (strategy.batch, strategy.tokens, strategy.backend)
            strategy.take_subnets(StageSubNets(student, self.args.output_dir, self._in_main_first, *timed))
        self._in_main_first(lambda: remove_partial_checkpoints(Path(self.args.output_dir) / folder))
        checkpoints = complete_checkpoints(Path(self.args.output_dir) / folder)
        if number > 1 and stage.rounding > self.plan[number - 2].rounding and not checkpoints:
            calibrate_weights(student)
            calibrate_activations(student, self._calibration)
        elif reshape is not None and not checkpoints:
            calibrate_activations(student, self._calibration)
        if strategy is not None and not checkpoints:
            strategy.prepare(student, self._preferences.scores() if strategy.needs_scores else None)
        rows = self._learned_rows if number < self._selection else self.train_dataset
        trainer = self._stage_trainer(number, stage, student, strategy, rows, self._user_callbacks())
        self._forget_preferences()
        self._say(f"stage {number} of {len(self.plan)}: {stage.name}" + (" (resumed)" if checkpoints else ""))
        output = trainer.train_to_end(checkpoints[-1] if checkpoints else None)
        self.state.log_history.extend(trainer.state.log_history)
        set_rounding(student, True)
        if decides(stage):
            student, assignment = strategy.derive(student, self._judge(student))
            record.decide(assignment)
        self._in_main_first(lambda: self.students.save(student, f"{folder}/{MODEL}"))
        self._take(fix(student, assignment) if is_open(student) else student)
        set_rounding(self.model, stage.rounding)  # what a float stage makes is scored as it is
        metrics = self._scores(number, trainer)
        set_rounding(self.model, True)
        record.finish(
            stage.name,
            steps=output.global_step,
            train_loss=output.training_loss,
            seconds=output.metrics["train_runtime"],
            packed_megabytes=self._packed_bytes() / 1e6,
            **metrics,
        )

    def _stage_trainer(
        self,
        number: int,
        stage: StageSpec,
        student: nn.Module,
        strategy: SearchStrategy | None,
        rows: Any,
        callbacks: list | None,
        **changes: Any,
    ) -> StageTrainer:
        set_rounding(student, stage.rounding)
        trainer = StageTrainer(
            self._stage_module(stage, student, strategy),
            self._arguments(number, stage, student, changes),
            strategy,
            self.args.seed + number if self.args.data_seed is None else self.args.data_seed + number,
            number,
            None if decides(stage) else self._fixed_metrics(student),
            stage.trainable,
            data_collator=self.data_collator,
            train_dataset=rows,
            eval_dataset=self.eval_dataset,
            processing_class=self.processing_class,
            compute_metrics=self.compute_metrics,
            callbacks=callbacks,
            preprocess_logits_for_metrics=self.preprocess_logits_for_metrics,
        )
        call_overrides(trainer, self, self._overridden)
        for one in self._default_callbacks:
            if one not in self.callback_handler.callbacks:
                trainer.remove_callback(type(one))
        return trainer

    def _stage_module(self, stage: StageSpec, student: nn.Module, strategy: SearchStrategy | None) -> StageModule:
        kinds = {name: OBJECTIVES[name] for name in stage.objectives}
        teacher = self._teacher if any(kind.needs_teacher for kind in kinds.values()) else None
        objectives = {name: OBJECTIVES.make(name, student, teacher, options=stage.objectives[name]) for name in kinds}
        schedules = {name: SCHEDULES.make(name, options=options) for name, options in stage.schedules.items()}
        elastic = strategy.subnets.elastic if strategy is not None and strategy.shapes else None
        return StageModule(student, objectives, teacher, strategy, schedules, elastic)

    def _arguments(
        self, number: int, stage: StageSpec, student: nn.Module, changes: Mapping[str, Any]
    ) -> MPQTrainingArguments:
        own = {**stage.arguments, **stage_length(self.plan, self.args, number), **changes}
        folder = Path(self.args.output_dir) / stage_folder(number, stage)
        return stage_arguments(self.args, own, folder, self.args.seed + number, find_labels(type(student)))

    def _user_callbacks(self) -> list[TrainerCallback]:
        """All that were given or added, and not removed."""
        return [one for one in self.callback_handler.callbacks if one not in self._default_callbacks]

    def _fixed_metrics(self, student: nn.Module) -> dict[str, float]:
        space = space_of(student)
        return fixed_metrics(space, self._limits(space), assignment_of(student))

    def _scores(self, number: int, trainer: StageTrainer) -> dict[str, float]:
        """Scores of the model so far on the dev set, where there is one; logged as of the stage's last step."""
        if self.eval_dataset is None:
            return {}
        self._stage, self.state.global_step, self.state.epoch = number, trainer.state.global_step, trainer.state.epoch
        try:
            return self.evaluate()
        finally:
            self._stage = None

    def _strategy(
        self, stage: StageSpec, student: nn.Module, budgets: Budgets, latencies: LatencyTable | None
    ) -> SearchStrategy | None:
        if stage.strategy is None:
            return None
        space = space_of(student)
        limits = carried_limits(budgets, self._space, space, latencies)
        return STRATEGIES.make(stage.strategy, space, limits, options=stage.strategy_options)

    def _limits(self, space: PrecisionSpace) -> Limits:
        """What the config's budgets mean for a model."""
        return carried_limits(self._config.budgets, self._space, space, self._latencies)

    def _check_budgets(self) -> None:
        """Raise ValueError where nothing can meet the budgets or decides by them, or one is missing, before a stage
        begins."""
        if self._config.budgets:
            check_serves_one(self._config, self._open)
            if searches_shapes(self.plan):
                raise BudgetError(
                    f"{self.method.name} searches a shape by its milliseconds, and a budget decides nothing: leave it "
                    "out, and set the target among the strategy_options of its stage"
                )
            check_possible(self._space, self._limits(self._space))
            self._check_reshaped(self.plan[0])
        elif self._open and self._config.assignment is None and not decides(self.plan[0]):
            first, *others = [name for name, gate in gates(self.model).items() if gate.searching]
            more = f" and {len(others)} more" if others else ""
            raise ValueError(
                f"the precisions of {first}{more} are left to choose: give a budget, such as "
                "MPQConfig(budget='2.5bits'), or fix them"
            )

    def _check_reshaped(self, stage: StageSpec) -> None:
        """Raise BudgetError where a search that begins with another shape cannot meet the budgets there; of a run that
        goes on it is known that it can."""
        if stage.reshape is None or not decides(stage) or RunRecord(Path(self.args.output_dir), False).exists:
            return
        student = self.students.reshaped(Part(stage.reshape, **stage.reshape_options))
        strategy = self._strategy(stage, student, self._config.budgets, self._latencies)
        if not strategy.needs_scores:
            strategy.prepare(student)

    def _assignment(self, number: int, stage: StageSpec, previous: str | None, record: RunRecord) -> Assignment | None:
        """The precisions that a stage without a search trains; None where the config has decided them."""
        found, chosen = record.assignment(), (record.selection or {}).get("chosen")
        compared = number == self._selection and len(self._compared_rows) and chosen is None
        if found is None:
            if self._config.assignment is not None or not self._open:
                return None
            if not (compared and self._compares_finalists):
                found = self._preferences.assignment()
                record.decide(found)
        if compared:
            found = self._select(number, stage, previous, found, record)
            record.decide(found)
        return found

    def _packed_bytes(self) -> float:
        """Bytes of the model so far when it is packed."""
        return COSTS["size"](space_of(self.model)).of(assignment_of(self.model))
