"""The selection rule: of several assignments, the one that trains best for a short while."""

from collections.abc import Callable, Mapping
from functools import cached_property

from accelerate.utils import broadcast_object_list
from torch import nn
from transformers import set_seed

from ...core import Assignment, StageSpec
from ...nn.batches import batches_of
from ...runs.record import RunRecord
from ...search import Judge
from ...search.judge import Trial
from ...search.scorers import mean_divergence
from ..stage.forward_names import NamedInputs
from .plan import trial_steps

_AT_ONCE = 64
"""Rows that are judged together, at least: every batch quantizes all weights anew."""


class SelectionRule:
    """Mixin of the trainer of a whole run: compares what a search found with what is found without one, or the best
    of those that are found without."""

    def _select(
        self, number: int, stage: StageSpec, previous: str | None, found: Assignment | None, record: RunRecord
    ) -> Assignment:
        """The searched assignment or the training-free one, or the one of the allocator's best, that a short training
        brings nearest to the teacher.

        All start from the same weights: those that the search ended with, or the given ones. They are compared on rows
        that nothing was trained on: neither the search nor the short trainings, and the scores do not see them.
        """
        candidates = self._candidates(found, record)
        first, *others = candidates.values()
        compared = bool((record.selection or {}).get("divergence"))  # before an interruption
        if not compared and all(one == first for one in others):
            return first
        self._say(f"selection: a short training of each of {len(candidates)} assignments ({', '.join(candidates)})")
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
            student = self.students.start("previous" if previous else stage.start, previous, assignment)
            trainer = self._stage_trainer(number, stage, student, None, self._learned_rows, None, **short)
            trainer.train_to_end()
            return self._divergence(student)

        return select(candidates, self._judge(self.model, trial).trained_damage, record)

    def _candidates(self, found: Assignment | None, record: RunRecord) -> dict[str, Assignment]:
        """What is compared, by name; the allocator's best by their places in its order, the same in all processes and
        after an interruption."""
        if not self._compares_finalists:
            return {"search": found, "training-free": self._preferences.assignment()}
        kept = (record.selection or {}).get("finalists")
        if kept is None:
            best = self._preferences.finalists(self.method.finalists)
            kept = {str(place): one.to_dict() for place, one in enumerate(best, 1)}
            kept = broadcast_object_list([kept])[0]
            record.select({"divergence": {}, "chosen": None, "finalists": kept})
        return {name: Assignment.from_dict(one) for name, one in kept.items()}

    def _judge(self, model: nn.Module, trial: Trial | None = None) -> Judge:
        """Measures assignments of a model by its divergence from the teacher."""
        return Judge(
            model,
            self._divergence,
            trial,
            progress=self.is_world_process_zero() and not self.args.disable_tqdm,
            keeps_blocks=True,
        )

    def _divergence(self, model: nn.Module) -> float:
        """On rows that nothing was trained on where some were kept, else on the calibration inputs; the same in all
        processes, so that they choose alike."""
        kept = self._teacher_outputs
        found = [mean_divergence(NamedInputs(self._teacher), NamedInputs(model), self._judged_batches, kept)]
        return broadcast_object_list(found)[0]

    @cached_property
    def _teacher_outputs(self) -> list:
        """What the teacher gave for the judged batches."""
        return []

    @cached_property
    def _judged_batches(self) -> list[Mapping]:
        rows = self._compared_rows
        if not len(rows):
            return self._calibration
        at_once = max(self.args.per_device_train_batch_size, _AT_ONCE)
        return batches_of(rows, self.model, at_once, len(rows))


def select(candidates: Mapping[str, Assignment], trial: Callable[[Assignment], float], record: RunRecord) -> Assignment:
    """The candidate of least divergence; each result is kept at once, so an interrupted selection goes on.

    Args:
        candidates: name to assignment.
        trial: trains one shortly and measures its divergence from the teacher.
        record: of the run; its `selection` gets every divergence and the chosen name.
    """
    before = record.selection or {}
    found = dict(before.get("divergence", {}))
    for name, assignment in candidates.items():
        if name not in found:
            found[name] = trial(assignment)
            record.select({**before, "divergence": found, "chosen": None})
    chosen = min(candidates, key=found.__getitem__)
    record.decide(candidates[chosen])  # before its name: a run that stops in between compares what is kept again
    record.select({**before, "divergence": found, "chosen": chosen})
    return candidates[chosen]
