"""What a run has done so far, in one file that is always whole."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...core import Assignment, read_json
from ...core.files import write_text
from ..arguments import MPQTrainingArguments
from .settings import differences

FILE, ASSIGNMENT = "stages.json", "assignment.json"


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
        if then.keys() != settings.keys():
            raise ValueError(f"{self.folder / FILE} does not say what its run was set to (an older version): start "
                             "anew in another output_dir")  # fmt: skip
        different = differences(then, settings)
        if different:
            raise ValueError(f"{self.folder / FILE} is of a run with other settings: {'; '.join(different)}. Resume "
                             "with what it was, or start anew in another output_dir")  # fmt: skip

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


def open_record(
    args: MPQTrainingArguments, resume: bool | str | Path | None, settings: dict[str, Any], names: Sequence[str]
) -> RunRecord:
    """The record of the run in `output_dir`, which may go on there, or of one that may begin there.

    Args:
        args: of the run.
        resume: as in `train`.
        settings: of the run, see `settings_of`.
        names: of files and folders that a run leaves beside its record.

    Raises:
        ValueError: when the folder holds a run and this is not to resume it, holds another run, or remains of one.
    """
    folder = Path(args.output_dir)
    place = Path(resume).resolve() if isinstance(resume, str | Path) else folder.resolve()
    if folder.resolve() not in (place, *place.parents):
        raise ValueError(f"{resume} is not in output_dir={folder}: set output_dir to the folder of the run, and "
                         "resume_from_checkpoint=True")  # fmt: skip
    record = RunRecord(folder, args.should_save)
    if not record.exists:
        _refuse_remains(folder, [ASSIGNMENT, *names])
    elif resume:
        record.check(settings)
    else:
        raise ValueError(f"{folder} holds a run: train(resume_from_checkpoint=True) goes on with it; for a new one "
                         "give another output_dir")  # fmt: skip
    return record


def _refuse_remains(folder: Path, names: Sequence[str]) -> None:
    """A run that lost its `stages.json` is neither gone on with nor mixed with a new one."""
    found = [name for name in names if (folder / name).exists()]
    if found:
        raise ValueError(f"{folder} holds {', '.join(found)} of a run, but no {FILE}: remove them, or give another "
                         "output_dir")  # fmt: skip
