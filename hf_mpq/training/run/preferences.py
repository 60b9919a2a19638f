"""What training-free compression says, for stages that start from it or are compared with it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...compression.choices import DEFAULT
from ...compression.engine import TrainingFree
from ...core import Assignment, MethodSpec, PrecisionSpace
from ...core.files import whole_file
from ...cost import LatencyTable
from ...plugin import MPQConfig
from ...runs.files import SCORES as FILE


class Preferences:
    """Scores and assignment of the float model; computed once in a run, by one process, and kept in its folder.

    Args:
        folder: of the run.
        model: float.
        config: with the candidates and the budgets.
        method: its scorer and allocator, the default ones where it has none.
        batches: calibration inputs.
        latencies: what a budget in ms is measured by.
        first: runs a function in the main process before the others go on.
        progress: show it, on stderr.
        space: of the model, where it is made already.
    """

    def __init__(
        self,
        folder: str | Path,
        model: nn.Module,
        config: MPQConfig,
        method: MethodSpec,
        batches: Sequence[Mapping],
        first: Callable[[Callable[[], None]], None],
        latencies: LatencyTable | None = None,
        progress: bool = True,
        space: PrecisionSpace | None = None,
    ):
        filled = {slot: getattr(DEFAULT, slot) for slot in ("scorer", "allocator") if getattr(method, slot) is None}
        choice = replace(method, **filled, rounding="nearest", rounding_options={})
        self._file, self._first, self._budgets = Path(folder) / FILE, first, config.budgets
        self._engine = TrainingFree(model, config, choice, batches, progress=progress, space=space)
        self._engine.latencies = latencies

    def scores(self) -> dict[str, Tensor]:
        """How much each choice hurts, `(groups, candidates)` for each matrix."""
        self._first(self._compute)
        return {name: table.double() for name, table in load_file(self._file).items()}

    def assignment(self) -> Assignment:
        """The training-free assignment; raises ValueError without a budget."""
        return self.finalists(1)[0]

    def finalists(self, count: int) -> list[Assignment]:
        """The best training-free assignments, at most `count`, the best first; raises ValueError without a budget."""
        if not self._budgets:
            raise ValueError("this method decides bits under a budget: give one, such as MPQConfig(budget='2.5bits')")
        if self._engine.uses_scores:
            self._engine.keep_scores(self.scores())
        return self._engine.finalists(self._budgets, count)

    def _compute(self) -> None:
        if not self._file.exists():
            scores = {name: table.cpu().contiguous() for name, table in self._engine.scores().items()}
            with whole_file(self._file) as partial:
                save_file(scores, partial)
