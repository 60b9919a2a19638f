"""What a training run left in its folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core import read_json
from .checkpoints import complete_checkpoints
from .files import STAGES as FILE
from .files import START
from .record import RunRecord


@dataclass(frozen=True)
class RunStage:
    """One stage of a run.

    Attributes:
        name: of the stage.
        searched: whether precisions were open in it.
        result: of the finished stage: `steps`, `train_loss`, `packed_megabytes`, `seconds` and scores; empty before.
        history: rows that were logged, in order.
    """

    name: str
    searched: bool
    result: dict[str, Any]
    history: list[dict[str, float]]


@dataclass(frozen=True)
class Run:
    """A run in stages.

    Attributes:
        method: its name.
        budget: of its config, as it was written; None without one.
        stages: in order.
        selection: how the search's assignment and the training-free one compared; None where they did not.
    """

    method: str
    budget: str | None
    stages: tuple[RunStage, ...]
    selection: dict[str, Any] | None

    @property
    def search(self) -> RunStage | None:
        """The stage that searched precisions, where there is one."""
        return next((stage for stage in self.stages if stage.searched), None)


def read_run(folder: str | Path) -> Run:
    """Read the folder of an `MPQTrainer`, finished or not.

    Raises:
        ValueError: when there is no run in it.
    """
    record = RunRecord(folder, main=False)
    if not record.exists:
        raise ValueError(f"{folder} has no {FILE}: give the output_dir of an MPQTrainer")
    content = record.content
    stages = tuple(
        RunStage(
            stage["name"],
            stage["strategy"] is not None,
            content["finished"].get(stage["name"], {}),
            _history(Path(folder) / f"{number}-{stage['name']}"),
        )
        for number, stage in enumerate(content["plan"], 1)
    )
    return Run(content["method"], _budget(Path(folder) / START), stages, content["selection"])


def _budget(start: Path) -> str | None:
    """What the model that the run began with was to meet."""
    file = start / "config.json"
    if not file.exists():
        return None
    budget = read_json(file, "copy the run again")["quantization_config"].get("budget")
    return " + ".join(budget) if isinstance(budget, list) else budget


def _history(folder: Path) -> list[dict[str, float]]:
    """What the last whole checkpoint of a stage knows of its logs."""
    checkpoints = complete_checkpoints(folder) if folder.is_dir() else []
    if not checkpoints:
        return []
    return read_json(checkpoints[-1] / "trainer_state.json", "copy the run again")["log_history"]
