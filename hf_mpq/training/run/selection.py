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


class SelectionRule:
    """Mixin of the trainer of a whole run: compares what a search found with what is found without one."""

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
            return self._divergence(student)

        return select(candidates, self._judge(self.model, trial).trained_damage, record)

    def _judge(self, model: nn.Module, trial: Trial | None = None) -> Judge:
        """Measures assignments of a model by its divergence from the teacher."""
        return Judge(
            model, self._divergence, trial, progress=self.is_world_process_zero() and not self.args.disable_tqdm
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
        return batches_of(rows, self.model, self.args.per_device_train_batch_size, len(rows))


def select(candidates: Mapping[str, Assignment], trial: Callable[[Assignment], float], record: RunRecord) -> Assignment:
    """The candidate of least divergence; each result is kept at once, so an interrupted selection goes on.

    Args:
        candidates: name to assignment.
        trial: trains one shortly and measures its divergence from the teacher.
        record: of the run; its `selection` gets every divergence and the chosen name.
    """
    found = dict((record.selection or {}).get("divergence", {}))
    for name, assignment in candidates.items():
        if name not in found:
            found[name] = trial(assignment)
            record.select({"divergence": found, "chosen": None})
    chosen = min(candidates, key=found.__getitem__)
    record.decide(candidates[chosen])  # before its name: a run that stops in between compares what is kept again
    record.select({"divergence": found, "chosen": chosen})
    return candidates[chosen]
