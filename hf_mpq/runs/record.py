"""What a run has done so far, in one file that is always whole."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core import Assignment, read_json
from ..core.files import write_text
from .files import ASSIGNMENT
from .files import STAGES as FILE

GIVEN = "given"
"""Digests of the model, the rows and the teacher; those that a record of an older version lacks are not compared."""


class RunRecord:
    """`stages.json` of a run's folder: its settings, the finished stages with their metrics, and how assignments
    compared; the decided assignment is beside it.

    Args:
        folder: of the run.
        main: whether this process writes.
    """

    def __init__(self, folder: str | Path, main: bool = True):
        self.folder, self.main = Path(folder), main
        self.content: dict[str, Any] = {"finished": {}, "selection": None}
        if self.exists:
            self.content |= read_json(self.folder / FILE, "start anew in another output_dir")

    @property
    def exists(self) -> bool:
        """Whether the folder holds a run."""
        return (self.folder / FILE).exists()

    def begin(self, settings: dict[str, Any]) -> None:
        """Write down what is going to be done, as `settings_of` says it."""
        self.content = {**settings, **self.content}
        self._write()

    def check(self, settings: dict[str, Any]) -> None:
        """Raise ValueError when the folder's run has other settings, naming them."""
        then = {name: self.content[name] for name in settings if name in self.content}
        known, now = self.content.get(GIVEN, {}), settings.get(GIVEN, {})
        then[GIVEN] = {name: known.get(name, digest) for name, digest in now.items()}
        settings = {**settings, GIVEN: now}
        if then.keys() != settings.keys():
            raise ValueError(
                f"{self.folder / FILE} does not say what its run was set to (an older version): start "
                "anew in another output_dir"
            )
        different = differences(then, settings)
        if different:
            raise ValueError(
                f"{self.folder / FILE} is of a run with other settings: {'; '.join(different)}. Resume "
                "with what it was, or start anew in another output_dir"
            )

    def finished(self, stage: str) -> bool:
        """Whether a stage is done."""
        return stage in self.content["finished"]

    def finish(self, stage: str, **result: Any) -> None:
        """A stage is done; its files are whole."""
        self.content["finished"][stage] = result
        self._write()

    def select(self, result: dict[str, Any]) -> None:
        """Remember how candidates compared."""
        self.content["selection"] = result
        self._write()

    @property
    def selection(self) -> dict[str, Any] | None:
        """How candidates compared, once they did."""
        return self.content["selection"]

    def assignment(self) -> Assignment | None:
        """The decided assignment, once there is one."""
        file = self.folder / ASSIGNMENT
        return Assignment.load(file) if file.exists() else None

    def decide(self, assignment: Assignment) -> None:
        """Keep the decided assignment."""
        if self.main:
            assignment.save(self.folder / ASSIGNMENT)

    def _write(self) -> None:
        if not self.main:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / FILE, json.dumps(self.content, indent=2, default=str))


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What two runs' settings differ in, in words with both values; only the method where that is another one."""
    if then["method"] != now["method"]:
        then, now = ({"method": one["method"]} for one in (then, now))
    then, now = _flat(then), _flat(now)
    names = [name for name in {**then, **now} if (name in then, then.get(name)) != (name in now, now.get(name))]
    return [f"{name} was {_words(then, name)} and is now {_words(now, name)}" for name in names]


def _words(settings: Mapping[str, Any], name: str) -> str:
    return json.dumps(settings[name]) if name in settings else "not set"


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries to one with dotted names; an empty one stays a value, and a plan is by stages' names."""
    flat = {}
    for name, value in content.items():
        value = {stage["name"]: stage for stage in value} if name == "plan" else value
        deeper = isinstance(value, dict) and value
        flat.update(_flat(value, f"{prefix}{name}.") if deeper else {prefix + name: value})
    return flat
