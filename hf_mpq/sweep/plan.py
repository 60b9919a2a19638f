"""What a sweep is to run, checked before anything is loaded and kept with its rows."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

from ..core import METHODS, Budget, budgets_of, read_json, unknown
from ..core.files import write_text
from ..plugin import MPQConfig
from ..plugin.nested_budget import check_serves_one
from ..search.strategies import searches_shapes
from ..tasks import get_task
from ..training import MPQTrainingArguments
from .axes import Axis, Choices, Range, axis_of
from .measures import DIRECTIONS

FILE = "sweep.json"
KEYS = ("task", "method", "variant", "budget", "seed")
"""What tells rows apart; `variant` says in words what else was varied."""
OWN = ("method", "budget", "seed")
_FOR_RUNS = {one.name for one in fields(MPQTrainingArguments)} - {"output_dir", "push_to_hub", "hub_token"}
_FOR_CONFIG = {one.name for one in fields(MPQConfig)} - {
    *("storage", "resolved", "packed", "origin", "inside", "format_version", "quant_method", "input_affine", "shapes"),
}
Point = Mapping[str, Any]
"""A value for each name of the space."""


@dataclass(frozen=True)
class Plan:
    """What a sweep runs: every point of a space for every task, or `trials` points that a search chooses.

    Args:
        model: folder or name of the float model; `"{task}"` in it is the task's name.
        tasks: that are compared, by name.
        space: name to values. Names are `method`, `budget`, `seed`, and all fields of `MPQConfig` and
            `MPQTrainingArguments`. A list are choices (a choice that is itself a list is a list in the list),
            `{"low": 1e-5, "high": 1e-3, "log": true}` is a range, anything else one value.
        trials: how many points of each task are tried in an open search; None runs every point, which needs a space
            without ranges.
        objectives: what an open search makes as good as it can, all at once, and what the table shows.
        data_dir: folder with one folder per task; None for the Hub.
        finetune_epochs: the model is fine-tuned for each task first, so long; 0: it is fine-tuned already.
        train_rows, eval_rows: rows that are used of the training and the dev set; None for all that are there.
        max_length: tokens after which inputs are cut.

    Raises:
        ValueError: a name or a value is not known; the message has the known ones.
    """

    model: str
    tasks: tuple[str, ...]
    space: Mapping[str, Any] = field(default_factory=dict)
    trials: int | None = None
    objectives: tuple[str, ...] = ("score", "megabytes", "milliseconds")
    data_dir: str | None = None
    finetune_epochs: float = 0.0
    train_rows: int | None = None
    eval_rows: int | None = None
    max_length: int = 128

    def __post_init__(self):
        if not self.tasks:
            raise ValueError("a sweep needs a task, such as sst2")
        object.__setattr__(self, "tasks", tuple(get_task(name).name for name in self.tasks))
        object.__setattr__(self, "objectives", tuple(self.objectives))
        wrong = [name for name in self.objectives if name not in DIRECTIONS]
        if wrong or not self.objectives:
            raise ValueError(unknown("objective", wrong[0] if wrong else "", DIRECTIONS))
        self._check_kinds()
        if self.trials is not None and self.trials < 1:
            raise ValueError(f"trials must be 1 or more, got {self.trials}")
        object.__setattr__(self, "space", {"method": "mpq", "seed": 0, **self.space})
        self._check_space()
        methods = [METHODS.name_of(value) for value in self.axes["method"].values]
        object.__setattr__(self, "space", {**self.space, "method": methods if len(methods) > 1 else methods[0]})

    @property
    def axes(self) -> dict[str, Axis]:
        """All names of the space with what they may be."""
        return {name: axis_of(name, given) for name, given in self.space.items()}

    @property
    def varied(self) -> dict[str, Axis]:
        """The names that have several values."""
        return {name: axis for name, axis in self.axes.items() if isinstance(axis, Range) or len(axis.values) > 1}

    def points(self) -> Iterator[tuple[str, Point]]:
        """Every task with every point, the first seed of all before the second; of a space without ranges."""
        axes = {name: axis.values for name, axis in self.axes.items() if isinstance(axis, Choices)}
        order = ["seed", *(name for name in axes if name not in OWN), "budget", "method"]
        names = [name for name in order if name in axes]
        for values in product(*(axes[name] for name in names[:1])):
            for task in self.tasks:
                for others in product(*(axes[name] for name in names[1:])):
                    yield task, dict(zip(names, (*values, *others)))

    def key(self, task: str, point: Point) -> dict[str, Any]:
        """What tells the row of a point apart."""
        others = {name: point[name] for name in self.varied if name not in OWN}
        return {
            "task": task,
            "method": point["method"],
            "variant": ", ".join(f"{name}={_word(value)}" for name, value in others.items()),
            "budget": _budget_words(point.get("budget")),
            "seed": point["seed"],
        }

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def load(cls, folder: str | Path) -> "Plan":
        """That of a sweep's folder.

        Raises:
            ValueError: there is none, or it is damaged.
        """
        file = Path(folder) / FILE
        if not file.exists():
            raise ValueError(f"{folder} has no {FILE}: say what the sweep is to run, at least --model and --task")
        content = read_json(file, "start anew in another folder, or give the sweep's options again")
        strange = sorted(set(content) - {one.name for one in fields(cls)})
        if strange or not {"model", "tasks"} <= set(content):
            raise ValueError(f"{file} is no plan of a sweep ({', '.join(strange) or 'no model or tasks'})")
        return cls(**content)

    def keep(self, folder: str | Path) -> None:
        """Write it into a sweep's folder, or see that it is the one that is there; more trials may be asked for.

        Raises:
            ValueError: the folder has a sweep over another space, or with other settings.
        """
        file = Path(folder) / FILE
        if file.exists():
            then, now = Plan.load(folder).to_dict(), self.to_dict()
            different = [
                f"{name} was {json.dumps(then[name])} and is now {json.dumps(now[name])}"
                for name in now
                if then[name] != now[name] and not (name == "trials" and None not in (then[name], now[name]))
            ]
            if different:
                raise ValueError(
                    f"{folder} has another sweep: {'; '.join(different)}. Go on with what it was, or give another --out"
                )
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(self.to_dict(), indent=2) + "\n")

    def _check_kinds(self) -> None:
        """What is measured in probabilities of classes is not there for spans and words."""
        for name in {"kl", "agreement", "unseen_kl", "unseen_agreement"} & set(self.objectives):
            other = [task for task in self.tasks if get_task(task).kind != "sequence-classification"]
            if other:
                raise ValueError(
                    f"{other[0]} has no {name}, which is of whole texts: leave out the objective or the task"
                )

    def _check_space(self) -> None:
        known = {"method", "budget", "seed", *_FOR_CONFIG, *_FOR_RUNS}
        wrong = [name for name in self.space if name not in known]
        if wrong:
            raise ValueError(unknown("name in the space:", wrong[0], known))
        axes = self.axes
        if self.trials is None and (ranges := [name for name, axis in axes.items() if isinstance(axis, Range)]):
            raise ValueError(f"{ranges[0]} is a range, of which not every value can be run: give trials, or choices")
        for name in OWN[:2]:
            if isinstance(axes.get(name), Range):
                raise ValueError(f"{name} cannot be a range: give choices")
        for value in axes["method"].values:
            METHODS.name_of(value)
            if not METHODS[value].stages:
                raise ValueError(f"method {value!r} is not trained, so a sweep cannot run it: leave it out")
            if "budget" in axes:
                _check_takes_budgets(value)
        for value in axes["budget"].values if "budget" in axes else ():
            budgets_of(value)
        self._check_configs()

    def _check_configs(self) -> None:
        """Make a config with each choice once, the others being the first ones."""
        axes = {name: axis for name, axis in self.axes.items() if name in _FOR_CONFIG}
        first = {name: axis.low if isinstance(axis, Range) else axis.values[0] for name, axis in axes.items()}
        for name, axis in axes.items():
            for value in (axis.low, axis.high) if isinstance(axis, Range) else axis.values:
                MPQConfig(**{**first, name: value})


def split(point: Point) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields of the config, without method and budget, and of the training arguments, with the seed."""
    config = {name: value for name, value in point.items() if name in _FOR_CONFIG and name not in OWN}
    return config, {name: value for name, value in point.items() if name in _FOR_RUNS and name not in config}


def _check_takes_budgets(method: str) -> None:
    """Raise ValueError for a method whose every run would refuse a budget."""
    check_serves_one(MPQConfig(method=method), searching=False)
    if searches_shapes(METHODS[method].stages):
        raise ValueError(
            f"{method} searches a shape by its milliseconds, and takes no budget: sweep over it without any"
        )


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _budget_words(budget: Any) -> str:
    if budget is None:
        return ""
    several = budget if isinstance(budget, list | tuple) else [budget]
    return " + ".join(one if isinstance(one, str) else str(Budget.parse(one)) for one in several)
