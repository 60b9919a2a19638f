"""The trainer that users see: a run in stages, each an ordinary Trainer."""

import copy
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo
from torch import nn
from transformers import Trainer, TrainerCallback
from transformers.trainer_jit_checkpoint import JITCheckpointCallback
from transformers.trainer_utils import TrainOutput

from ..core import Assignment, Budgets, say
from ..cost import LatencyTable
from ..format import model_folder
from ..nn import calibrate_activations
from ..nn.heads import infer_labels
from ..nn.walk import is_open
from ..plugin import pack
from ..plugin.float_copy import float_copy
from ..plugin.heads import is_latency
from ..plugin.space import space_of
from ..runs.files import LATENCIES, SCORES, SHAPE_LATENCIES, START
from ..runs.record import RunRecord
from .arguments import MPQTrainingArguments
from .run.budgets import SeveralBudgets
from .run.digests import digest_given_to, digest_of_model, digest_of_rows
from .run.fresh_models import FreshModels, check_teacher, check_trainable, in_single_precision
from .run.latencies import read_latencies, write_latencies
from .run.lock import only_trainer
from .run.parts import RunParts
from .run.plan import check_remade, check_rows, first_labels, method_of, plan_of, stage_folder
from .run.publishing import publish, run_facts
from .run.record import open_record
from .run.selection import SelectionRule
from .run.settings import settings_of
from .run.stages import StageRunner
from .run.students import Students
from .stage.checkpoints import without_secrets
from .stage.overrides import StageHost, overridden
from .stage.stopping import TrainingStopped, refuse_early_stopping

PACKED = "packed"


class MPQTrainer(StageHost, StageRunner, SelectionRule, SeveralBudgets, RunParts, FreshModels, Trainer):
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
        model: trainable, from `from_pretrained(..., quantization_config=MPQConfig(...))` or `hf_mpq.quantize`; None
            where `model_init` makes one. Without a method in its config, open precisions are searched as by `"mpq"`,
            and fixed ones trained as by `"uniform"`. A nested model is trained at every precision that it serves, in
            every step: without a method as by `"vertical"`, else by the mean of the losses.
        args: the usual arguments for the whole run.
        teacher: a float model that objectives distil from; None is a frozen float copy of the weights in `model`,
            neither rounded nor masked.
        options: other arguments of `Trainer`: `train_dataset`, `eval_dataset`, `data_collator`, `processing_class`,
            `compute_metrics`, `callbacks`, ... With `model_init`, which returns such a model, or makes one for a trial
            that it is given, each `train()` starts from a fresh one; `hyperparameter_search` needs it, and runs each
            trial in `<output_dir>/run-<number>`.

    Raises:
        ValueError: when the model is not quantized, or is packed, or its method is not trained; when a subclass
            overrides what stages do not call.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        args: MPQTrainingArguments | None = None,
        *,
        teacher: nn.Module | None = None,
        **options: Any,
    ):
        if not isinstance(args, MPQTrainingArguments):
            raise ValueError(f"MPQTrainer takes MPQTrainingArguments, got {type(args).__name__}")
        if model is not None or options.get("model_init") is None:
            check_trainable(model)
        unsupported = [
            name
            for name in ("optimizers", "optimizer_cls_and_kwargs", "compute_loss_func")
            if options.get(name) not in (None, (None, None))
        ]
        if unsupported:
            raise ValueError(
                f"MPQTrainer has no {', '.join(unsupported)}: each stage makes its own optimizer and "
                "loss; use the arguments optim and stages"
            )
        self._overridden = overridden(self, MPQTrainer)
        self.teacher = teacher
        given = [one() if isinstance(one, type) else one for one in options.pop("callbacks", None) or []]
        refuse_early_stopping(given)
        super().__init__(model, args, callbacks=given, **options)
        jit = self.pop_callback(JITCheckpointCallback)  # each stage has its own
        if jit is not None:
            jit.on_train_end(args, self.state, self.control)  # takes its handler of signals away
        self._default_callbacks = [one for one in self.callback_handler.callbacks if one not in given]
        self._adopt(self.model)

    def _adopt(self, model: nn.Module) -> None:
        """Make a quantized model the one that the next run trains."""
        config = check_trainable(model)
        halves = in_single_precision(model)
        if halves:
            self._say(
                f"weights in {halves} are trained in float32, where small steps are not lost: bf16=True among the "
                "arguments computes in bfloat16"
            )
        self.method = method_of(config)
        self._config, self._open = copy.deepcopy(config), is_open(model)
        self._space = space_of(model)
        self.plan = plan_of(self.method, self.args, self._open)
        check_remade(self.plan, type(model))
        self.students = Students(self.args.output_dir, model, self.args.pretrained)
        check_teacher(self.teacher, model)
        self._digests = {
            "model": digest_given_to(self.args.output_dir, model),
            "teacher": None if self.teacher is None else digest_of_model(self.teacher),
        }

    def train(self, resume_from_checkpoint: bool | str | Path | None = None, trial: Any = None) -> TrainOutput:
        """Run every stage that is not finished; afterwards the model holds the last one's result.

        Args:
            resume_from_checkpoint: go on with the run in `output_dir`; a path must be that folder, or one inside.
            trial: that `hyperparameter_search` runs, in a folder of its own.

        Raises:
            ValueError: when `output_dir` holds a run and this is not to resume it, or holds another run, or another
                trainer is at work there; or without a training set.
            BudgetError: when nothing meets the budget.
            TrainingStopped: when a callback, a signal or the end of the data stopped a stage. The model then is the
                last finished stage's, and `resume_from_checkpoint=True` goes on.
        """
        self._overridden = overridden(self, MPQTrainer)  # with what was set on it since
        with self._for_trial(trial):
            check_rows(self.train_dataset, self.plan, self.args)
            for one in (self.model, self.teacher):
                infer_labels(one, first_labels(self.train_dataset))
            with only_trainer(self.args.output_dir, self.args.should_save):
                return self._train(resume_from_checkpoint)

    def _train(self, resume_from_checkpoint: bool | str | Path | None) -> TrainOutput:
        self._latencies = None
        timed = any(map(is_latency, self._config.budgets))  # by what is kept with the run
        if not timed:  # before there is one
            self._check_budgets()
        record = self._record(resume_from_checkpoint)
        if timed:
            self._latencies = self._measured(self._config.budgets)
            self._check_budgets()
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

    def save_packed(self, folder: str | Path, assignment: Assignment | None = None) -> None:
        """Write the model in packed storage, with its tokenizer: the small file that users load.

        The model itself stays trainable. Open gates are decided within the config's budget.

        Args:
            folder: where to.
            assignment: writes the model that the run's last search trained at these precisions, such as one of
                `assignments`, instead of the result of the run.
        """
        model = self.accelerator.unwrap_model(self.model) if assignment is None else self.searched_model(assignment)
        if not self.is_world_process_zero():
            return
        packed = pack(_without_autocast(copy.deepcopy(model)).cpu())
        with model_folder(folder) as new:
            packed.save_pretrained(new)
            if self.processing_class is not None:
                self.processing_class.save_pretrained(new)

    def save_float(self, folder: str | Path) -> None:
        """Write the float weights, zero where masks hold them, as a plain checkpoint with its tokenizer, which needs no
        hf_mpq: a model that was pruned, for anyone to fine-tune.

        Raises:
            ValueError: when rows were folded away, so that they are not there any more.
        """
        model = self.accelerator.unwrap_model(self.model)
        if not self.is_world_process_zero():
            return
        plain = float_copy(_without_autocast(model), masked=True).cpu()
        with model_folder(folder) as new:
            plain.save_pretrained(new)
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
            {**self._digests, "rows": digest_of_rows(self.train_dataset)},
        )
        stages = [stage_folder(number, stage) for number, stage in enumerate(self.plan, 1)]
        record = open_record(self.args, resume, settings, [SCORES, LATENCIES, SHAPE_LATENCIES, *stages])
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

    def _measured(self, budgets: Budgets) -> LatencyTable | None:
        """What a budget in ms is measured by: one measurement for all processes, kept with the run."""
        budget = next(filter(is_latency, budgets), None)
        if budget is None:
            return None
        file = Path(self.args.output_dir) / LATENCIES
        self._in_main_first(lambda: write_latencies(file, self._space, budget))
        return read_latencies(file)

    def _take(self, model: nn.Module) -> None:
        """Make a model the one that this trainer evaluates and saves."""
        self.accelerator.free_memory()
        self.model = self.model_wrapped = _without_autocast(model).to(self.args.device)
        self.callback_handler.model = self.model

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
