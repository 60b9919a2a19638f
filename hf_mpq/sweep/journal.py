"""What runs next: Optuna's studies, one for each task, in one journal file that several processes share.

Rows are what counts: a journal that was deleted is made again from them. Every call holds the sweep's lock, which the
system lets go of when a process ends, however it ends; so does the lock of a run, which tells a run that goes on from
one whose process was killed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .._extras import require
from .measures import DIRECTIONS
from .plan import KEYS, OWN, Plan, Point
from .rows import ROWS, Results
from .space import Space

with require("sweep", "a sweep"):
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import FrozenTrial, TrialState, create_trial

JOURNAL, LOCK = "journal.log", "sweep.lock"
RUN, ORDER, ERROR = "run", "order", "error"
"""Attributes of a trial: the name of its run, its place in the order of a plan, why it failed."""
OVER = (TrialState.COMPLETE, TrialState.FAIL)


@dataclass(frozen=True)
class Turn:
    """A run that has its turn.

    Attributes:
        task, point: what is run.
        name: of its folder.
        trial: that Optuna has for it.
        lock: held until it is over.
    """

    task: str
    point: Point
    name: str
    trial: optuna.Trial
    lock: FileLock


class Journal:
    """Hands out runs, and takes in how they ended.

    Args:
        folder: of the sweep.
        plan: what it is to run.

    Raises:
        ValueError: the journal or the rows are damaged; the message says where, and what to do.
    """

    def __init__(self, folder: str | Path, plan: Plan):
        self.folder, self.plan = Path(folder), plan
        self.lock = FileLock(self.folder / LOCK)
        self._space = Space(plan)
        with self._held():
            self.results = Results(self.folder / ROWS, *KEYS, say=False)
            self._studies = self._opened()
            self._take_in_rows()
            if plan.trials is None:
                self._line_up()

    def take(self) -> Turn | None:
        """The next run; None where all are done, or going on in other processes."""
        with self._held():
            self._bury()
            while (study := self._next_study()) is not None:
                trial = study.ask(self._space.distributions)
                point = self._space.point(trial.params)
                name = trial.user_attrs.get(RUN) or f"{study.study_name}-trial{trial.number}"
                trial.set_user_attr(RUN, name)
                row = self.results.find(**self.plan.key(study.study_name, point))
                if row is not None:
                    study.tell(trial.number, self._values(row))
                    continue
                lock = self._lock_of(name)
                lock.acquire(timeout=0)
                return Turn(study.study_name, point, name, trial, lock)
        return None

    def done(self, turn: Turn, row: Mapping[str, Any]) -> None:
        """Keep a run's row, and let Optuna know."""
        with self._held():
            if not self.results.has(**row):
                self.results.add(**row)
            self._studies[turn.task].tell(turn.trial, self._values(row))
        turn.lock.release()

    def failed(self, turn: Turn, error: Exception) -> None:
        """Keep why a run failed; it does not get another turn by itself."""
        words = f"{type(error).__name__}: {' '.join(str(error).split())}"
        with self._held():
            turn.trial.set_user_attr(ERROR, words)
            self._studies[turn.task].tell(turn.trial, state=TrialState.FAIL)
        turn.lock.release()

    def retry(self) -> None:
        """Line up again what failed."""
        with self._held():
            for task, study in self._studies.items():
                for name, trials in self._by_run(study).items():
                    if trials[-1].state == TrialState.FAIL:
                        self._enqueue(task, trials[-1].params, name, trials[-1].user_attrs.get(ORDER, 0))

    def states(self) -> list[dict[str, Any]]:
        """Every run that has no row: its `task`, `point`, `name`, `state` (`"waiting"`, `"running"`, `"failed"`) and
        `error`; of an open search what is still to be chosen has no point."""
        with self._held():
            self._bury()
            found = []
            for task, study in self._studies.items():
                trials = [runs[-1] for runs in self._by_run(study).values()]
                for trial in (one for one in trials if one.state != TrialState.COMPLETE):
                    found.append(
                        {
                            "task": task,
                            "point": self._space.point(trial.params or trial.system_attrs.get("fixed_params", {})),
                            "name": trial.user_attrs[RUN],
                            "state": _WORDS[trial.state],
                            "error": trial.user_attrs.get(ERROR, ""),
                        }
                    )
                ahead = 0 if self.plan.trials is None else max(self.plan.trials - len(trials), 0)
                found += [{"task": task, "point": None, "name": "", "state": "waiting", "error": ""}] * ahead
            return found

    # The studies

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Alone with the journal and the rows, which are read again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.lock:
            _drop_half_line(self.folder / JOURNAL)
            if hasattr(self, "results"):
                self.results.reread()
            yield

    def _opened(self) -> dict[str, optuna.Study]:
        """The studies, of this plan's space."""
        remedy = (
            f"delete it while no process works on the sweep; it is made again from {ROWS}, and only runs without a row "
            "are run again"
        )
        try:
            studies = self._open()
            trials = [trial for study in studies.values() for trial in study.get_trials(deepcopy=False)]
        except Exception as error:  # whatever a line that is cut or lost leads to
            raise ValueError(f"{self.folder / JOURNAL} is damaged ({error!r}): {remedy}") from error
        for trial in trials:
            words = trial.params or trial.system_attrs.get("fixed_params", {})
            if trial.state in (*OVER, TrialState.WAITING) and not self._space.has(words):
                raise ValueError(f"{self.folder / JOURNAL} is of another space: {remedy}")
        return studies

    def _open(self) -> dict[str, optuna.Study]:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = JournalStorage(JournalFileBackend(str(self.folder / JOURNAL), lock_obj=self.lock))
        directions = [DIRECTIONS[name] for name in self.plan.objectives]
        return {
            task: optuna.create_study(
                storage=storage,
                study_name=task,
                directions=directions,
                load_if_exists=True,
                sampler=optuna.samplers.TPESampler(constant_liar=True),
            )
            for task in self.plan.tasks
        }

    def _take_in_rows(self) -> None:
        """Tell the studies of rows that they do not know."""
        for task, study in self._studies.items():
            known = [
                self._space.point(trial.params) for trial in study.get_trials(deepcopy=False) if trial.state in OVER
            ]
            keys = [self.plan.key(task, point) for point in known]
            for row in self.results.rows:
                key = {name: row.get(name) for name in KEYS}
                params = self._space.params(row.get("point", {}))
                if row.get("task") == task and key not in keys and self._space.has(params) and self._is_measured(row):
                    study.add_trial(
                        create_trial(
                            params=params,
                            distributions=self._space.distributions,
                            values=self._values(row),
                            user_attrs={RUN: row["run"]},
                        )
                    )

    def _line_up(self) -> None:
        """Every point that has no trial waits for its turn, in the order of the plan."""
        known = {task: set(self._by_run(study)) for task, study in self._studies.items()}
        for order, (task, point) in enumerate(self.plan.points()):
            name = run_name(self.plan, task, point)
            if name not in known[task]:
                self._enqueue(task, self._space.params(point), name, order)

    def _enqueue(self, task: str, params: Mapping[str, Any], name: str, order: int) -> None:
        self._studies[task].enqueue_trial(dict(params), user_attrs={RUN: name, ORDER: order})

    def _bury(self) -> None:
        """Runs whose process is gone get another turn, or are over where their row was written."""
        for task, study in self._studies.items():
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                name = trial.user_attrs.get(RUN)
                if name is not None and self._is_held(name):
                    continue
                row = self.results.find(**self.plan.key(task, self._space.point(trial.params)))
                if row is not None:
                    study.tell(trial.number, self._values(row))
                    continue
                study.tell(trial.number, state=TrialState.FAIL)
                if name is not None:
                    self._enqueue(task, trial.params, name, trial.user_attrs.get(ORDER, 0))

    def _next_study(self) -> optuna.Study | None:
        """The study whose turn it is: where something waits, in the order of the plan; else the one with fewest trials
        of an open search."""
        waiting = []
        for study in self._studies.values():
            first = next(iter(study.get_trials(deepcopy=False, states=(TrialState.WAITING,))), None)
            if first is not None:
                waiting.append((first.user_attrs.get(ORDER, 0), study))
        if waiting:
            return min(waiting, key=lambda one: one[0])[1]
        if self.plan.trials is None:
            return None
        counts = [(len(self._by_run(study)), study) for study in self._studies.values()]
        count, study = min(counts, key=lambda one: one[0])
        return study if count < self.plan.trials else None

    def _by_run(self, study: optuna.Study) -> dict[str, list[FrozenTrial]]:
        """Trials of each run, in order: a run whose process was killed has several."""
        found: dict[str, list[FrozenTrial]] = {}
        for trial in study.get_trials(deepcopy=False):
            if RUN in trial.user_attrs:
                found.setdefault(trial.user_attrs[RUN], []).append(trial)
        return found

    # Locks of runs, points and values

    def _lock_of(self, name: str) -> FileLock:
        (self.folder / "locks").mkdir(exist_ok=True)
        return FileLock(self.folder / "locks" / f"{name}.lock")

    def _is_held(self, name: str) -> bool:
        lock = self._lock_of(name)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    def _is_measured(self, row: Mapping[str, Any]) -> bool:
        return all(row.get(name) is not None for name in self.plan.objectives)

    def _values(self, row: Mapping[str, Any]) -> list[float]:
        return [float(row[name]) for name in self.plan.objectives]


_WORDS = {TrialState.WAITING: "waiting", TrialState.RUNNING: "running", TrialState.FAIL: "failed"}


def run_name(plan: Plan, task: str, point: Point) -> str:
    """A name for a folder that no other point has."""
    key = plan.key(task, point)
    others = {name: point[name] for name in plan.varied if name not in OWN}
    digest = hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()[:8] if others else ""
    parts = (task, key["method"], "".join(key["budget"].split()), str(key["seed"]), digest)
    return "-".join(part for part in parts if part).replace("/", "_").replace(":", "_").replace("%", "pct")


def _drop_half_line(file: Path) -> None:
    """A last line without its end is what a killed process left, and nobody has acted on."""
    if not file.exists():
        return
    with file.open("rb+") as journal:
        content = journal.read()
        if content and not content.endswith(b"\n"):
            journal.truncate(content.rfind(b"\n") + 1)
