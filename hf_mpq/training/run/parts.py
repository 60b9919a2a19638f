"""What the stages of a run share: the float model, scores, and which rows are for what."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from torch import nn

from ...nn.batches import batches_of
from ...plugin.reshape import whole_model
from ..arguments import examples_per_step
from ..stage.forward_names import named_inputs
from .plan import decides, selects_before
from .preferences import Preferences
from .selection_rows import keep_rows, split_rows


class RunParts:
    """Mixin of the trainer of a whole run: what is made once, when it is first asked for."""

    @cached_property
    def _float_model(self) -> nn.Module:
        """The model as it was given, without rounding and masks."""
        return self.students.float_model().to(self.args.device)

    @cached_property
    def _teacher(self) -> nn.Module:
        teacher = self.teacher
        if teacher is None and self._config.shape is not None:
            teacher = whole_model(self.students.model)
            if teacher is None:
                raise ValueError(
                    f"the float model was reduced to {self._config.shape} in another process, so the whole one cannot "
                    "teach: give teacher=, or load the float checkpoint with this config again"
                )
        return self._float_model if teacher is None else teacher.to(self.args.device).eval()

    @cached_property
    def _preferences(self) -> Preferences:
        return Preferences(
            self.args.output_dir,
            self._float_model,
            self._config,
            self.method,
            self._calibration,
            self._in_main_first,
            self._latencies,
            not self.args.disable_tqdm,
            self._space,
        )

    def _forget_preferences(self) -> None:
        """Free what only scores needed; they are on disk."""
        self.__dict__.pop("_preferences", None)
        if "_teacher" not in self.__dict__ or self.teacher is not None:
            self.__dict__.pop("_float_model", None)

    @cached_property
    def _selection(self) -> int:
        """Number of the stage that the selection rule gives its assignment; 0 where none is compared."""
        if not (self.args.selection_examples and self._config.budgets):
            return 0
        if self._compares_finalists:
            return 1
        return selects_before(self.plan) if self.method.selects else 0

    @property
    def _compares_finalists(self) -> bool:
        """Whether the allocator hands over several assignments, and not the search or the config one."""
        given = self._config.assignment is not None or not self._open
        return self.method.finalists > 1 and not given and not any(map(decides, self.plan))

    @cached_property
    def _split(self) -> tuple[Any, Any]:
        if not self._selection or self.train_dataset is None:
            return self.train_dataset, []
        return keep_rows(
            self.train_dataset, self.args.selection_examples, self.args.seed, least=2 * examples_per_step(self.args)
        )

    @property
    def _learned_rows(self) -> Any:
        """What everything before the selection is trained on, and the scores are of."""
        return self._split[0]

    @property
    def _compared_rows(self) -> Any:
        """What assignments are compared on."""
        return self._split[1]

    @cached_property
    def _calibration(self) -> list[Mapping]:
        _, rows = split_rows(self._learned_rows, self.args.calibration_examples, self.args.seed)
        batches = batches_of(rows, self.model, 16, self.args.calibration_examples, labels=True)
        return [named_inputs(self.model, batch) for batch in batches]  # not what only a teacher reads
