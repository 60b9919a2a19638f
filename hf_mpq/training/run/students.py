"""The model that is trained is the user's own: every stage begins by putting what is on disk into it, so that a resumed
stage begins as the uninterrupted one, and what was done to the model (frozen parameters, dropout, hooks) stays."""

import copy
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from ...core import Assignment, Part, Pattern
from ...cost.limit import carried_over
from ...nn.reshape import become, shape_facts, sizes_of, with_sizes_of
from ...nn.walk import close_gates, derive, is_open, matrices, served_precisions
from ...nn.widening import RESHAPES, close_new_rows
from ...plugin import fix, quantize, set_precision
from ...plugin.config import MPQConfig
from ...plugin.float_copy import as_float
from ...plugin.saving import attach
from ...plugin.space import space_of
from ...runs.files import MODEL, START
from ..stage.checkpoints import load_state, saved_state


class Students:
    """Puts the models of a run's folder into the user's, and writes it there.

    Args:
        folder: of the run.
        model: the user's, with the gates that it was given with.
        pretrained: name or folder of the checkpoint before fine-tuning, for stages that start from it.
    """

    def __init__(self, folder: str | Path, model: nn.Module, pretrained: str | None = None):
        self.folder, self.model, self.pretrained = Path(folder), model, pretrained
        self._whole = copy.copy(model)  # as it is given, where a search of shapes cuts another out
        self._remember()
        self._of_whole = self._gates, self._inputs, self._masks, self._config

    def _remember(self) -> None:
        """How the gates and inputs of the model are before anything is decided."""
        model = self.model
        self._gates = {name: (layer.program.gate, layer.program.source) for name, layer in matrices(model)}
        opened = ((name, layer) for name, layer in matrices(model) if layer.input_gate is not None)
        self._inputs = {name: (layer.input_quantizer, layer.spec) for name, layer in opened}
        self._masks = {name: (layer.spec, layer.program.mask) for name, layer in matrices(model) if layer.spec.patterns}
        self._config, self._quantizer = model.config.quantization_config, model.hf_quantizer

    def start(
        self, start: str, previous: str | None, assignment: Assignment | None, reshape: Part | None = None
    ) -> nn.Module:
        """Make the user's model the one that a stage begins with; returns it, in the mode for training.

        Args:
            start: one of `STAGE_STARTS`.
            previous: folder name of the stage before, where there is one.
            assignment: closes the gates.
            reshape: registered reshape with its options, done to the float weights before that.

        Raises:
            FileNotFoundError: when the stage before has left no model.
            ValueError: when what is on disk is of another model.
        """
        if start == "previous" and previous is not None:
            self._take(self._state_of(previous), self.folder / previous / MODEL)
        elif start in ("previous", "loaded"):
            self._take(saved_state(self.folder / START), self.folder / START)
        else:
            self._take(self._afresh(start), self.folder / START)
        if reshape is not None:
            self._reshape(reshape)
        if assignment is not None and is_open(self.model):
            fix(self.model, assignment)
        return self.model.train()

    def float_model(self) -> nn.Module:
        """A float copy of the model as the user gave it, neither masked nor rounded, in eval mode."""
        whole = shape_facts(self.model.config) == shape_facts(self._whole.config)
        twin = copy.deepcopy(self.model if whole else self._whole)
        self._reopen(twin, *copy.deepcopy(self._of_whole))
        load_state(twin, saved_state(self.folder / START), self.folder / START)
        return as_float(twin)

    def save(self, model: nn.Module, folder: str) -> None:
        """Write a model as `folder` of the run; a half-written one never has that name."""
        place = self.folder / folder
        partial = place.with_name(place.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        model.save_pretrained(partial)
        shutil.rmtree(place, ignore_errors=True)
        os.replace(partial, place)

    def _state_of(self, stage: str) -> dict[str, Tensor]:
        folder = self.folder / stage / MODEL
        if not folder.exists():
            raise FileNotFoundError(f"{folder} is gone, and a later stage needs it: start anew in another output_dir")
        return saved_state(folder)

    def _take(self, state: Mapping[str, Tensor], source: Path) -> None:
        """Open the gates again, close those that are decided in `state`, and load it; where a search of shapes cut it
        out, the model gets its shape first."""
        self._take_shape(source)
        self._reopen(self.model, self._gates, self._inputs, self._masks, self._config)
        self.model.hf_quantizer = self._quantizer
        inputs, patterns = self._decided(source) if self._inputs or self._masks else ({}, {})
        closed = close_gates(self.model, state, inputs, patterns if self._masks else {})
        load_state(self.model, state, source)
        if closed:
            fix(self.model, derive(self.model))
        served = served_precisions(self.model)
        if served:
            set_precision(self.model, served[-1])

    def _take_shape(self, source: Path) -> None:
        """Make the model one of the shape that is on disk, of the run's start or cut out of it."""
        found = type(self.model).config_class.from_pretrained(source)
        if shape_facts(found) == shape_facts(self.model.config):
            return
        whole = shape_facts(found) == shape_facts(self._whole.config)
        device = next(self.model.parameters()).device
        other = self._whole if whole else type(self.model).from_pretrained(source).to(device)
        attach(become(self.model, other), other.hf_quantizer)
        self._remember()

    def reshaped(self, how: Part) -> nn.Module:
        """A model of another shape, quantized as the model is; new rows are closed to gates that choose widths. Budgets
        that are relative are those of the model before."""
        before, rows = space_of(self.model), sizes_of(self.model).rows
        other = RESHAPES.make(how.name, self.model, options=how.options)
        config = copy.deepcopy(self.model.config.quantization_config)
        config.assignment = config.shape = None
        budgets = carried_over(config.budgets, before, config.resolve(other))
        config.budget = config.budget if budgets == config.budgets else list(budgets)
        return close_new_rows(quantize(other, config), rows)

    def _reshape(self, how: Part) -> None:
        other = self.reshaped(how)
        attach(become(self.model, other), other.hf_quantizer)
        self._remember()

    def _decided(self, folder: Path) -> tuple[Mapping[str, int], Mapping[str, Pattern | None]]:
        """Bits of the inputs, and patterns, that are decided in a model of the run."""
        config = type(self.model).config_class.from_pretrained(folder).quantization_config
        found = MPQConfig.from_dict(config).assignment
        if found is None:
            return {}, {}
        assignment = Assignment.from_dict(found)
        return assignment.activation_bits, {name: one.keep_of for name, one in assignment.matrices.items()}

    @staticmethod
    def _reopen(
        model: nn.Module,
        gates: Mapping[str, tuple],
        inputs: Mapping[str, tuple],
        masks: Mapping[str, tuple],
        config: MPQConfig,
    ) -> None:
        for name, layer in matrices(model):
            if layer.program.source is not gates[name][1]:
                layer.weight.requires_grad_(False)  # a copy of what the source holds
            layer.program.gate, layer.program.source = gates[name]
            layer.program.gate.take(None)
        for name, layer in matrices(model):
            if name in masks:
                layer.restore_mask(*masks[name])
            if name in inputs:
                quantizer, layer.spec = inputs[name]
                layer.set_input(quantizer)
                layer.input_gate.take(None)
        model.config.quantization_config = config

    def _afresh(self, start: str) -> dict[str, Tensor]:
        """State of the same architecture with other float weights, quantized by the same config."""
        kind = type(self.model)
        config = kind.config_class.from_pretrained(self.folder / START)
        del config.quantization_config
        if start == "random":
            fresh = kind(config)
        else:
            with_sizes_of(config, kind.config_class.from_pretrained(self.pretrained))
            fresh = kind.from_pretrained(self.pretrained, config=config)
        return quantize(fresh, self._config).state_dict()
