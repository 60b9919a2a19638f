"""A sweep in its folder: run what is missing, list it, show what is there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from ..core import say
from .plan import KEYS, Plan
from .rows import ROWS, Results
from .table import write_report

if TYPE_CHECKING:
    from .journal import Journal, Turn


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
        return Results(self.folder / ROWS, *KEYS).rows

    def missing(self) -> list[dict[str, Any]]:
        """What has no row: `task`, `point`, `name`, `state` (`"waiting"`, `"running"`, `"failed"`) and `error` of
        each."""
        return self.journal().states()

    def run(self, retry: bool = False) -> None:
        """Run what has no row, one after the other, until nothing waits.

        A run that raises is told, kept with its error, and not tried again.

        Args:
            retry: what failed before gets another turn.
        """
        from .point import run_point

        journal = self.journal()
        if retry:
            journal.retry()
        while (turn := journal.take()) is not None:
            announce(f"{turn.name}: begins")
            try:
                row = run_point(self.plan, turn.task, turn.point, turn.name, self.folder)
            except Exception as error:
                run_failed(journal, turn, error)
            except BaseException:  # Ctrl-C: the run goes on from its last checkpoint when it gets another turn
                turn.lock.release()
                raise
            else:
                self.keep(journal, turn, row)

    def keep(self, journal: Journal, turn: Turn, row: dict[str, Any]) -> None:
        """Keep the row of a run that had its turn; its checkpoints go when the row is there."""
        journal.done(turn, row)
        shutil.rmtree(self.folder / "runs" / turn.name, ignore_errors=True)
        announce(f"{turn.name}: {'  '.join(f'{name} {row[name]:.4g}' for name in self.plan.objectives)}")

    def report(self) -> str:
        """The table, which `report.md` gets too; `pareto.png` gets the picture."""
        return write_report(self.rows, self.plan, self.folder)

    def journal(self) -> Journal:
        """What hands the runs out."""
        from .journal import Journal

        return Journal(self.folder, self.plan)


def announce(words: str) -> None:
    """A line about what happens, to stderr."""
    say(escape(words))


def run_failed(journal: Journal, turn: Turn, error: Exception) -> None:
    """Keep why a run failed."""
    announce(f"{turn.name}: failed: {' '.join(str(error).split()) or type(error).__name__}")
    journal.failed(turn, error)
