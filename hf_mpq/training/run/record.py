"""What a run has done so far, in one file that is always whole."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...runs.files import ASSIGNMENT
from ...runs.files import STAGES as FILE
from ...runs.record import RunRecord
from ..arguments import MPQTrainingArguments


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
        raise ValueError(
            f"{resume} is not in output_dir={folder}: set output_dir to the folder of the run, and "
            "resume_from_checkpoint=True"
        )
    record = RunRecord(folder, args.should_save)
    if not record.exists:
        _refuse_remains(folder, [ASSIGNMENT, *names])
    elif resume:
        record.check(settings)
    else:
        raise ValueError(
            f"{folder} holds a run: train(resume_from_checkpoint=True) goes on with it; for a new one "
            "give another output_dir"
        )
    return record


def _refuse_remains(folder: Path, names: Sequence[str]) -> None:
    """A run that lost its `stages.json` is neither gone on with nor mixed with a new one."""
    found = [name for name in names if (folder / name).exists()]
    if found:
        raise ValueError(
            f"{folder} holds {', '.join(found)} of a run, but no {FILE}: remove them, or give another output_dir"
        )
