"""The trainer that users see: a run in stages, each an ordinary Trainer."""

import copy
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import cached_property
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from huggingface_hub import CommitInfo
from torch import nn
from transformers import Trainer, TrainerCallback, set_seed
from transformers.trainer_jit_checkpoint import JITCheckpointCallback
from transformers.trainer_utils import TrainOutput
from transformers.utils.generic import find_labels

from ..core import Assignment, StageSpec, say
from ..cost import LatencyTable, budget_cost
from ..format import model_folder
from ..nn import calibrate_activations
from ..nn.batches import batches_of
from ..nn.walk import calibrate_weights, set_rounding
from ..plugin import MPQConfig, assignment_of, fix, pack
from ..plugin.heads import is_latency
from ..runs.checkpoints import complete_checkpoints, remove_partial_checkpoints
from ..runs.files import LATENCIES, MODEL, SCORES, START
from ..runs.record import RunRecord
from ..search.schedules import SCHEDULES
from ..search.scorers import mean_divergence
from ..search.strategies import STRATEGIES, SearchStrategy
from .arguments import MPQTrainingArguments, examples_per_step
from .objectives import OBJECTIVES
from .run.fixed_metrics import fixed_metrics
from .run.latencies import read_latencies, write_latencies
from .run.lock import only_trainer
from .run.plan import (
    check_remade,
    check_rows,
    decides,
    method_of,
    plan_of,
    selects_before,
    stage_arguments,
    stage_folder,
    stage_length,
    trial_steps,
)
from .run.preferences import Preferences
from .run.publishing import publish, run_facts
from .run.record import open_record
from .run.rows import keep_rows, split_rows
from .run.selection import select
from .run.settings import settings_of
from .run.students import Students, is_open
from .stage.checkpoints import without_secrets
from .stage.forward_names import NamedInputs
from .stage.module import StageModule
from .stage.overrides import StageHost, call_overrides, overridden
from .stage.stopping import TrainingStopped, refuse_early_stopping
from .stage.trainer import StageTrainer

PACKED = "packed"


class MPQTrainer(StageHost, Trainer):
    """Takes a quantized model through the stages of its config's method: distil, search, derive, train.

    `train()` writes `<output_dir>/<n>-<stage>/` with each stage's checkpoints and its model, and `stages.json` with its
    plan, metrics and decisions. `train(resume_from_checkpoint=True)` goes on after an interruption anywhere, and gives
    what the uninterrupted run gives. Between stages `evaluate`, `predict` and `save_model` are those of a Trainer over
    the model so far; the dev set is reported, and chooses nothing.

    The model that was given is the one that is trained: frozen parameters stay as they are, edited dropout and hooks
    stay on, and afterwards it holds the result. What a subclass overrides is called in every stage, with the trained
    model as `self.model` and the stage's `args`, `state`, `optimizer`, ... : an overridden `compute_loss` is the loss
    of the stage (its mean over the rows of a micro-batch), to which a search adds its penalty, and
    `super().compute_loss` is the weighted sum of the stage's objectives. Methods that stages cannot call are refused.

    A callback that sets `should_training_stop`, or a SIGTERM with `enable_jit_checkpoint`, interrupts the run: `train`
    raises `TrainingStopped`, and a stage counts as finished after its last step only. Early stopping is refused.
    Between stages a SIGTERM ends the process at once; all that is on disk is whole.

    Args:
        model: trainable, from `from_pretrained(..., quantization_config=MPQConfig(...))` or `hf_mpq.quantize`. Without
            a method in its config, open precisions are searched as by `"mpq"`, and fixed ones trained as by
            `"uniform"`. A nested model is trained at every precision that it serves, in every step.
        args: the usual arguments for the whole run.
        teacher: a float model that objectives distil from; None is a frozen float copy of the weights in `model`,
            neither rounded nor masked.
        options: other arguments of `Trainer`: `train_dataset`, `eval_dataset`, `data_collator`, `processing_class`,
            `compute_metrics`, `callbacks`, ...

    Raises:
        ValueError: when the model is not quantized, or is packed, or its method is not trained; when a subclass
            overrides what stages do not call.
    """

    _stage: int | None = None
    """Number of the stage whose scores are being logged."""

    def __init__(
        self, model: nn.Module, args: MPQTrainingArguments, *, teacher: nn.Module | None = None, **options: Any
    ):
        if not isinstance(args, MPQTrainingArguments):
            raise ValueError(f"MPQTrainer takes MPQTrainingArguments, got {type(args).__name__}")
        config = getattr(getattr(model, "config", None), "quantization_config", None)
        if not isinstance(config, MPQConfig):
            raise ValueError(
                "this model is not quantized: load it with from_pretrained(..., quantization_config="
                "MPQConfig(...)), or call hf_mpq.quantize(model, MPQConfig(...)) first"
            )
        if config.storage == "packed":
            raise ValueError("a packed model cannot be trained: call hf_mpq.unpack(model) first")
        unsupported = [
            name
            for name in ("optimizers", "optimizer_cls_and_kwargs", "compute_loss_func", "model_init")
            if options.get(name) not in (None, (None, None))
        ]
        if unsupported:
            raise ValueError(
                f"MPQTrainer has no {', '.join(unsupported)}: each stage makes its own optimizer and "
                "loss; use the arguments optim and stages"
            )
        self._overridden = overridden(type(self), MPQTrainer)
        self.method, self.teacher = method_of(config), teacher
        given = [one() if isinstance(one, type) else one for one in options.pop("callbacks", None) or []]
        refuse_early_stopping(given)
        super().__init__(model, args, callbacks=given, **options)
        jit = self.pop_callback(JITCheckpointCallback)  # each stage has its own
        if jit is not None:
            jit.on_train_end(args, self.state, self.control)  # takes its handler of signals away
        self._default_callbacks = [one for one in self.callback_handler.callbacks if one not in given]
        self._config, self._open = copy.deepcopy(config), is_open(model)
        self.plan = plan_of(self.method, args, self._open)
        check_remade(self.plan, type(model))
        self.students = Students(args.output_dir, model, args.pretrained)
        _check_teacher(teacher, model)

    def train(self, resume_from_checkpoint: bool | str | Path | None = None) -> TrainOutput:
        """Run every stage that is not finished; afterwards the model holds the last one's result.

        Args:
            resume_from_checkpoint: go on with the run in `output_dir`; a path must be that folder, or one inside.

        Raises:
            ValueError: when `output_dir` holds a run and this is not to resume it, or holds another run, or another
                trainer is at work there; or without a training set.
            BudgetError: when nothing meets the budget.
            TrainingStopped: when a callback, a signal or the end of the data stopped a stage. The model then is the
                last finished stage's, and `resume_from_checkpoint=True` goes on.
        """
        check_rows(self.train_dataset, self.plan, self.args)
        with only_trainer(self.args.output_dir, self.args.should_save):
            return self._train(resume_from_checkpoint)

    def _train(self, resume_from_checkpoint: bool | str | Path | None) -> TrainOutput:
        record = self._record(resume_from_checkpoint)
        self._latencies = self._measured()
        previous, results = None, []
        for number, stage in enumerate(self.plan, 1):
            if not record.finished(stage.name):
                try:
                    self._run_stage(number, stage, previous, record)
                except TrainingStopped:
                    self._take(self.students.start("previous", previous, None))
                    raise
            results.append(record.content["finished"][stage.name])
            previous = stage_folder(number, stage)
        self._take(self.students.start("previous", previous, record.assignment()))
        steps = sum(result["steps"] for result in results)
        self.state.global_step = steps
        return TrainOutput(
            steps,
            results[-1]["train_loss"],
            {key: value for key, value in results[-1].items() if isinstance(value, int | float)},
        )

    def add_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """Add a callback to this trainer and to every stage from now on; raises ValueError for early stopping."""
        refuse_early_stopping([callback])
        super().add_callback(callback)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds the stage that the scores are of."""
        super().log(logs if self._stage is None else {"stage": self._stage, **logs}, *args, **kwargs)

    def save_packed(self, folder: str | Path) -> None:
        """Write the model in packed storage, with its tokenizer: the small file that users load.

        The model itself stays trainable. Open gates are decided within the config's budget.
        """
        if not self.is_world_process_zero():
            return
        model = copy.deepcopy(self.accelerator.unwrap_model(self.model))
        packed = pack(_without_autocast(model).cpu())
        with model_folder(folder) as new:
            packed.save_pretrained(new)
            if self.processing_class is not None:
                self.processing_class.save_pretrained(new)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **facts: Any,
    ) -> CommitInfo | Future[CommitInfo] | None:
        """Pack the model into `<output_dir>/packed` and upload that folder, with a card, as `args.hub_model_id`.

        Args:
            commit_message, token, revision, private: as in `Trainer.push_to_hub`.
            blocking: wait for the upload; otherwise a future is returned.
            facts: what `hf_mpq.hub.CardFacts` has, such as `float_metrics`, `license`, `dataset`. Scores
                are those of the last stage, unless `metrics` are given.

        Returns:
            Address of the commit, or its future; None in other processes than the first.

        Raises:
            ValueError, PermissionError, ConnectionError: as `hf_mpq.hub.push`.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        folder = Path(self.args.output_dir) / PACKED
        self.save_packed(folder)
        if not self.is_world_process_zero():
            return None
        given = {"token": token, "revision": revision, "private": private, "commit_message": commit_message}
        return publish(
            folder, self.args, {**run_facts(self.args.output_dir, self.eval_dataset), **facts}, given, blocking
        )

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Without the Hub's token in `training_args.bin`."""
        args, self.args = self.args, without_secrets(self.args)
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args = args

    def _record(self, resume: bool | str | Path | None) -> RunRecord:
        settings = settings_of(
            self.method,
            self.plan,
            self._config,
            self.args,
            self.train_dataset,
            self.teacher is not None,
            self.data_collator,
            len(self._compared_rows),
            self.model,
        )
        stages = [stage_folder(number, stage) for number, stage in enumerate(self.plan, 1)]
        record = open_record(self.args, resume, settings, [SCORES, LATENCIES, *stages])
        exists = record.exists
        self.accelerator.wait_for_everyone()
        if not exists:
            self._in_main_first(self._save_start)
            record.begin(settings)
        self.accelerator.wait_for_everyone()
        return record

    def _save_start(self) -> None:
        """Write the model as it was given, with activation ranges set."""
        calibrate_activations(self.model, self._calibration)
        self.students.save(self.model, START)

    def _in_main_first(self, function: Callable[[], None]) -> None:
        """Run a function in the main process while the others wait."""
        if self.args.should_save:
            function()
        self.accelerator.wait_for_everyone()

    def _measured(self) -> LatencyTable | None:
        """What a budget in ms is measured by: one measurement for all processes, kept with the run."""
        if not is_latency(self._config.budget):
            return None
        file = Path(self.args.output_dir) / LATENCIES
        self._in_main_first(lambda: write_latencies(file, self._config, self.model))
        return read_latencies(file)

    # One stage

    def _run_stage(self, number: int, stage: StageSpec, previous: str | None, record: RunRecord) -> None:
        folder = stage_folder(number, stage)
        assignment = None if decides(stage) else self._assignment(number, stage, previous, record)
        set_seed(self.args.seed + number)
        student = self.students.start(stage.start, previous, assignment)
        strategy = self._strategy(stage, student)
        self._in_main_first(lambda: remove_partial_checkpoints(Path(self.args.output_dir) / folder))
        checkpoints = complete_checkpoints(Path(self.args.output_dir) / folder)
        if number > 1 and stage.rounding > self.plan[number - 2].rounding and not checkpoints:
            calibrate_weights(student)
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
            student, assignment = strategy.derive(student)
            record.decide(assignment)
        self._in_main_first(lambda: self.students.save(student, f"{folder}/{MODEL}"))
        self._take(fix(student, assignment) if is_open(student) else student)
        metrics = self._scores(number, trainer)
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
        own = {**stage.arguments, **stage_length(self.plan, self.args, number), **changes}
        folder = Path(self.args.output_dir) / stage_folder(number, stage)
        seed = self.args.seed + number
        args = stage_arguments(self.args, own, folder, seed, find_labels(type(student)))
        kinds = {name: OBJECTIVES[name] for name in stage.objectives}
        teacher = self._teacher if any(kind.needs_teacher for kind in kinds.values()) else None
        objectives = {name: OBJECTIVES.make(name, student, teacher, options=stage.objectives[name]) for name in kinds}
        schedules = {name: SCHEDULES.make(name, options=options) for name, options in stage.schedules.items()}
        module = StageModule(student, objectives, teacher, strategy, schedules)
        order = seed if self.args.data_seed is None else self.args.data_seed + number
        facts = self._fixed_metrics(student) if strategy is None else None
        trainer = StageTrainer(
            module,
            args,
            strategy,
            order,
            number,
            facts,
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

    def _user_callbacks(self) -> list[TrainerCallback]:
        """All that were given or added, and not removed."""
        return [one for one in self.callback_handler.callbacks if one not in self._default_callbacks]

    def _fixed_metrics(self, student: nn.Module) -> dict[str, float]:
        space = self._config.resolve(student)
        cost, _ = budget_cost(space, self._config.budget, self._latencies)
        return fixed_metrics(space, cost, assignment_of(student))

    def _scores(self, number: int, trainer: StageTrainer) -> dict[str, float]:
        """Scores of the model so far on the dev set, where there is one; logged as of the stage's last step."""
        if self.eval_dataset is None:
            return {}
        self._stage, self.state.global_step, self.state.epoch = number, trainer.state.global_step, trainer.state.epoch
        try:
            return self.evaluate()
        finally:
            self._stage = None

    def _strategy(self, stage: StageSpec, student: nn.Module) -> SearchStrategy | None:
        if stage.strategy is None:
            return None
        space = student.config.quantization_config.resolve(student)
        cost, limit = budget_cost(space, self._config.budget, self._latencies)
        return STRATEGIES.make(stage.strategy, space, cost, limit, options=stage.strategy_options)

    def _assignment(self, number: int, stage: StageSpec, previous: str | None, record: RunRecord) -> Assignment | None:
        """The precisions that a stage without a search trains; None where the config has decided them."""
        found = record.assignment()
        if found is None:
            if self._config.assignment is not None or not self._open:
                return None
            found = self._preferences.assignment()
            record.decide(found)
        chosen = (record.selection or {}).get("chosen")
        if number == self._selection and len(self._compared_rows) and chosen is None:
            found = self._select(number, stage, previous, found, record)
            record.decide(found)
        return found

    # The selection rule

    def _select(self, number: int, stage: StageSpec, previous: str, found: Assignment, record: RunRecord) -> Assignment:
        """The searched assignment or the training-free one, whichever a short training brings nearer to the teacher.

        Both start from the weights that the search ended with. They are compared on rows that nothing was trained on:
        neither the search nor the short trainings, and the scores do not see them.
        """
        candidates = {"search": found, "training-free": self._preferences.assignment()}
        same = candidates["search"] == candidates["training-free"] and record.selection is None  # else it was decided
        if same:
            return found
        self._say("selection: a short training of the searched and of the training-free assignment")
        count = len(self._compared_rows)
        batches = batches_of(self._compared_rows, self.model, self.args.per_device_train_batch_size, count)
        length = len(self.train_dataset) if hasattr(self.train_dataset, "__len__") else None
        short = {
            "max_steps": trial_steps(self.plan, self.args, number, length),
            "report_to": [],
            "save_strategy": "no",
            "eval_strategy": "no",
            "enable_jit_checkpoint": False,
        }

        def trial(assignment: Assignment) -> float:
            set_seed(self.args.seed + number)
            student = self.students.start("previous", previous, assignment)
            trainer = self._stage_trainer(number, stage, student, None, self._learned_rows, None, **short)
            trainer.train_to_end()
            found = [mean_divergence(NamedInputs(self._teacher), NamedInputs(student), batches)]
            return broadcast_object_list(found)[0]  # so that all processes choose alike

        return select(candidates, trial, record)

    # What stages share

    @cached_property
    def _float_model(self) -> nn.Module:
        """The model as it was given, without rounding and masks."""
        return self.students.float_model().to(self.args.device)

    @cached_property
    def _teacher(self) -> nn.Module:
        return self._float_model if self.teacher is None else self.teacher.to(self.args.device).eval()

    @cached_property
    def _preferences(self) -> Preferences:
        return Preferences(
            self.args.output_dir,
            self._float_model,
            self._config,
            self.method,
            self._calibration,
            self._in_main_first,
            self._latencies,
            not self.args.disable_tqdm,
        )

    def _forget_preferences(self) -> None:
        """Free what only scores needed; they are on disk."""
        self.__dict__.pop("_preferences", None)
        if "_teacher" not in self.__dict__ or self.teacher is not None:
            self.__dict__.pop("_float_model", None)

    @cached_property
    def _selection(self) -> int:
        """Number of the stage that the selection rule gives its assignment; 0 where none is compared."""
        wanted = self.method.selects and self.args.selection_examples and self._config.budget is not None
        return selects_before(self.plan) if wanted else 0

    @cached_property
    def _split(self) -> tuple[Any, Any]:
        if not self._selection or self.train_dataset is None:
            return self.train_dataset, []
        return keep_rows(
            self.train_dataset, self.args.selection_examples, self.args.seed, least=2 * examples_per_step(self.args)
        )

    @property
    def _learned_rows(self) -> Any:
        """What everything before the selection is trained on, and the scores are of."""
        return self._split[0]

    @property
    def _compared_rows(self) -> Any:
        """What assignments are compared on."""
        return self._split[1]

    @cached_property
    def _calibration(self) -> list[Mapping]:
        _, rows = split_rows(self._learned_rows, self.args.calibration_examples, self.args.seed)
        return batches_of(rows, self.model, 16, self.args.calibration_examples, labels=True)

    def _take(self, model: nn.Module) -> None:
        """Make a model the one that this trainer evaluates and saves."""
        self.accelerator.free_memory()
        self.model = self.model_wrapped = _without_autocast(model).to(self.args.device)
        self.callback_handler.model = self.model

    def _packed_bytes(self) -> float:
        """Bytes of the model so far when it is packed."""
        cost, _ = budget_cost(self._config.resolve(self.model), None)
        return cost.of(assignment_of(self.model))

    def _say(self, words: str) -> None:
        if self.is_world_process_zero() and not self.args.disable_tqdm:
            say(words)


def _without_autocast(model: nn.Module) -> nn.Module:
    """The model with its own forward, where an evaluation in mixed precision put another around it; the same one."""
    original = model.__dict__.pop("_original_forward", None)
    if original is not None:
        del model.forward
        if model.forward != original:  # the user's own, set on the model
            model.forward = original
    return model


def _check_teacher(teacher: nn.Module | None, model: nn.Module) -> None:
    if teacher is not None and {id(one) for one in teacher.parameters()} & {id(one) for one in model.parameters()}:
        raise ValueError(
            "the teacher shares parameters with the model, and would be trained along: give "
            "copy.deepcopy(...) of the float model, made before it was quantized"
        )
