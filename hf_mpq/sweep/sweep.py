"""A sweep in its folder: run what is missing, list it, show what is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from ..core import say
from .plan import KEYS, Plan
from .rows import Results
from .table import write_report

if TYPE_CHECKING:
    from .journal import Journal


class Sweep:
    """Many runs, one row of each in `results.jsonl` of a folder; what is there is not run again.

    Any number of processes may work in the folder, on one machine or on several that share a disk with file locks. One
    that is killed loses the run that it was at, back to its last checkpoint; another takes it over.

    Args:
        folder: of the sweep: `sweep.json` is the plan, `journal.log` what Optuna knows, `packed/` the models.
        plan: what is to be run; None goes on with the folder's.

    Raises:
        ValueError: the folder has another plan, or none and none was given.
    """

    def __init__(self, folder: str | Path, plan: Plan | None = None):
        self.folder = Path(folder)
        if plan is None:
            plan = Plan.load(folder)
        else:
            plan.keep(folder)
        self.plan = plan

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What is done."""
        return Results(self.folder / "results.jsonl", *KEYS).rows

    def missing(self) -> list[dict[str, Any]]:
        """What has no row: `task`, `point`, `name`, `state` (`"waiting"`, `"running"`, `"failed"`) and `error` of
        each."""
        return self._journal().states()

    def run(self, retry: bool = False) -> None:
        """Run what has no row, one after the other, until nothing waits.

        A run that raises is told, kept with its error, and not tried again.

        Args:
            retry: what failed before gets another turn.
        """
        journal = self._journal()
        if retry:
            journal.retry()
        while (turn := journal.take()) is not None:
            self.run_one(journal, turn)

    def run_one(self, journal: Journal, turn: Any, run: Callable[..., dict[str, Any]] | None = None) -> None:
        """One run that has its turn.

        Args:
            run: `run_point`, or another with its arguments.
        """
        from .point import complete_row, run_point

        _say(f"{turn.name}: begins")
        try:
            row = (run or run_point)(self.plan, turn.task, turn.point, turn.name, self.folder)
        except Exception as error:
            _say(f"{turn.name}: failed: {' '.join(str(error).split()) or type(error).__name__}")
            journal.failed(turn, error)
        except BaseException:  # Ctrl-C: the run goes on from its last checkpoint when it gets another turn
            turn.lock.release()
            raise
        else:
            journal.done(turn, complete_row(self.plan, row))
            _say(f"{turn.name}: {'  '.join(f'{name} {row[name]:.4g}' for name in self.plan.objectives)}")

    def report(self) -> str:
        """The table, which `report.md` gets too; `pareto.png` gets the picture."""
        return write_report(self.rows, self.plan, self.folder)

    def _journal(self) -> Journal:
        from .journal import Journal

        return Journal(self.folder, self.plan)


def _say(words: str) -> None:
    say(escape(words))
