"""What a run has done so far, in one file that is always whole."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..core import Assignment, StageSpec

FILE = "stages.json"


class RunRecord:
    """`stages.json` of a run's folder: its plan, the finished stages with their metrics, and the decided assignment.

    Args:
        folder: of the run.
        main: whether this process writes.
    """

    def __init__(self, folder: str | Path, main: bool = True):
        self.folder, self.main = Path(folder), main
        self.content: dict[str, Any] = {"method": None, "plan": [], "finished": {}, "selection": None}
        if self.exists:
            self.content = json.loads((self.folder / FILE).read_text())

    @property
    def exists(self) -> bool:
        """Whether the folder holds a run."""
        return (self.folder / FILE).exists()

    def begin(self, method: str, plan: list[StageSpec]) -> None:
        """Write down what is going to be done."""
        self.content["method"], self.content["plan"] = method, [_plain(stage) for stage in plan]
        self._write()

    def check(self, method: str, plan: list[StageSpec]) -> None:
        """Raise ValueError when the folder's run is another one."""
        if self.content["method"] != method or self.content["plan"] != [_plain(stage) for stage in plan]:
            raise ValueError(
                f"{self.folder / FILE} was written by a run with other stages: resume it with the same method and "
                "arguments, or start anew in another output_dir"
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
        file = self.folder / "assignment.json"
        return Assignment.load(file) if file.exists() else None

    def decide(self, assignment: Assignment) -> None:
        """Keep the decided assignment."""
        if self.main:
            partial = self.folder / "assignment.json.partial"
            assignment.save(partial)
            os.replace(partial, self.folder / "assignment.json")

    def _write(self) -> None:
        if not self.main:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{FILE}.partial"
        partial.write_text(json.dumps(self.content, indent=2, default=str))
        os.replace(partial, self.folder / FILE)


def _plain(stage: StageSpec) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(stage), default=str))
