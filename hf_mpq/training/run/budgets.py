"""Other budgets from what one search has trained: their assignments, and their models."""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from ...core import Assignment, Budget, BudgetError, StageSpec, budgets_of
from ...plugin import fix
from ...runs.files import STAGES
from .plan import decides, stage_folder


class SeveralBudgets:
    """Mixin of the trainer of a whole run: asks its last search for more than the config's budget."""

    def assignments(self, budgets: Iterable[str | float | Budget]) -> list[Assignment]:
        """An assignment within each budget, decided by the run's last search on the model that it trained, as it was at
        its end: one super-net serves them all. Nothing is trained, the run stays as it is, and the same budget gives
        the same assignment, also in another process that has resumed the run.

        `searched_model` gives the model of one, and `save_packed(folder, assignment)` writes it. Where the method
        trains on after its search, that training was for the assignment of the config's budget alone.

        Args:
            budgets: each as in `MPQConfig`; `"2bits + activations:2500kB"` are met together.

        Raises:
            ValueError: when the run has no finished search, or one that decides without looking at the budget.
            BudgetError: for a budget that cannot be read or met, and for one that is in no list.
        """
        if isinstance(budgets, str | float | int | Budget):
            raise BudgetError(f"several budgets are asked for: give a list, such as [{str(budgets)!r}]")
        wanted = [budgets_of(one) for one in budgets]
        stage, folder = self._last_search()
        with self._searched(folder) as student:
            judge, found = self._judge(student), []
            for together in wanted:
                strategy = self._strategy(stage, student, together, self._measured(together))
                if not strategy.keeps_limit:
                    raise ValueError(
                        f"the search {stage.strategy!r} of stage {stage.name!r} takes the likeliest precisions "
                        "whatever they cost, so that it has one assignment for all budgets; train with "
                        "decision='projection' in its strategy_options, or a run for each budget"
                    )
                found.append(strategy.derive(student, judge)[1])
        return found

    def searched_model(self, assignment: Assignment) -> nn.Module:
        """A copy of the model that the run's last search trained, fixed at an assignment, in evaluation mode.

        Args:
            assignment: one of `assignments`, or any other that fits.

        Raises:
            ValueError: when the run has no finished search, or the assignment does not fit.
        """
        with self._searched(self._last_search()[1]) as student:
            return fix(copy.deepcopy(student), assignment).eval()

    def _last_search(self) -> tuple[StageSpec, str]:
        """The last stage that searches, with its folder."""
        searches = [(stage, folder) for stage, folder in self._folders() if decides(stage)]
        if not searches:
            raise ValueError(f"method {self.method.name!r} searches nothing here, so it has no assignment for a budget")
        return searches[-1]

    @contextmanager
    def _searched(self, folder: str) -> Iterator[nn.Module]:
        """The user's model as a search left it, with open gates; afterwards what the run has come to."""
        exists = (Path(self.args.output_dir) / STAGES).exists()
        record = self._record(True) if exists else None
        done = [place for stage, place in self._folders() if record is not None and record.finished(stage.name)]
        if folder not in done:
            raise ValueError(f"{folder} searches, and is not finished: call train() first")
        try:
            yield self.students.start("previous", folder, None).to(self.args.device)
        finally:
            self._take(self.students.start("previous", done[-1], record.assignment()))

    def _folders(self) -> list[tuple[StageSpec, str]]:
        """Every stage with its folder."""
        return [(stage, stage_folder(number, stage)) for number, stage in enumerate(self.plan, 1)]
