"""Budgets in milliseconds: the model of a space made once more, with random weights, and timed on this machine."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any

import torch
from torch import nn

from ..core import BudgetError, PrecisionSpace, WeightSpec
from ..cost import LatencyTable
from ..cost.latency import HERE, MEASURES
from ..nn import absolute_name, calibrate_activations, convert, initialise, pack_modules, set_precision
from ..nn.shapes import apply_shapes
from .machine import remembered
from .timing import example, measure_latencies

logger = logging.getLogger(__name__)

NOISE = (
    "label",
    "dtype",
    "version",
    "_name_or_path",
    "architectures",
    "problem_type",
    "dropout",
    "prob",
    "token_id",
    "initializer",
    "use_cache",
)
"""Parts of names of config fields that do not change how long a model takes."""


@MEASURES.register(HERE)
def latency_table(space: PrecisionSpace, batch: int, tokens: int, backend: str = "auto") -> LatencyTable:
    """The table of the model that a space was resolved for, with its input types, tables and head. It is measured at
    the first call, which takes half a minute or more, and kept; see `hf_mpq.runtime.machine.remembered`.

    Args:
        space: as `MPQConfig.resolve` makes it; which precisions may be chosen makes no difference.
        batch, tokens: of the input.
        backend: as of `prepare`.

    Raises:
        BudgetError: when the model cannot read so many tokens.
    """
    measured = {"model": model_words(space), "batch": batch, "tokens": tokens, "backend": backend}

    def measure() -> LatencyTable:
        logger.warning(
            f"measuring how long this model takes here at {batch} x {tokens}, once for this machine; about "
            "half a minute, or longer where a pass is slow"
        )
        with torch.random.fork_rng(devices=[]):
            return measure_latencies(unpruned(space, batch, tokens), batch, tokens, backend)

    return remembered(measured, measure)


def model_words(space: PrecisionSpace) -> dict[str, Any]:
    """All of a space that changes how long its model takes, JSON-able."""
    architecture = space.architecture
    config = {key: value for key, value in architecture["config"].items() if not any(word in key for word in NOISE)}
    weights = {name: _spec_words(spec) for name, spec in space.weights.items()}
    return {"class": architecture["class"], "config": config, "weights": weights, "attention": repr(space.attention)}


def _spec_words(spec: WeightSpec) -> str:
    parts = (spec.layout.shape, spec.quantizer, spec.mask, spec.rank, spec.affine, spec.calls, bool(spec.nested))
    activation = spec.activation
    input_words = activation and (activation.quantizer, activation.bits, dict(activation.options))
    return repr((*parts, input_words))


def unpruned(space: PrecisionSpace, batch: int, tokens: int) -> nn.Module:
    """A packed model with the shapes and input types of a space, every matrix at its highest precision."""
    model = _fresh(space.architecture)
    space = replace(space, weights={name: spec for name, spec in space.weights.items() if absolute_name(model, name)})
    apply_shapes(
        model,
        {
            name: spec.layout.shape
            for name, spec in space.weights.items()
            if spec.kind == "linear" and _shape(model, name) != spec.layout.shape
        },
    )
    _check_length(model, tokens)
    weights = {name: _highest(spec) for name, spec in space.weights.items()}
    convert(model, replace(space, weights=weights))
    initialise(model)
    if any(spec.nested for spec in weights.values()):
        set_precision(model, max(spec.nested[-1] for spec in weights.values() if spec.nested))
    calibrate_activations(model, [example(model, batch, tokens)])
    return pack_modules(model).eval()


def _fresh(architecture: Mapping[str, Any]) -> nn.Module:
    kind = import_module(architecture["module"])
    for part in architecture["class"].split("."):
        kind = getattr(kind, part)
    return kind(kind.config_class.from_dict(dict(architecture["config"]))).float().eval()


def _shape(model: nn.Module, name: str) -> tuple[int, ...]:
    return tuple(model.get_submodule(absolute_name(model, name)).weight.shape)


def _highest(spec: WeightSpec) -> WeightSpec:
    if spec.nested:
        return spec
    bits = max(spec.candidates)
    return replace(spec, candidates=(bits,), bits=(bits,) * spec.layout.count, gate="fixed", gate_options={})


def _check_length(model: nn.Module, tokens: int) -> None:
    """Tables of positions end somewhere; some begin after the padding id."""
    tables = [module for name, module in model.named_modules() if name.endswith("embeddings.position_embeddings")]
    starts = [0 if table.padding_idx is None else table.padding_idx + 1 for table in tables]
    longest = min((len(table.weight) - start for table, start in zip(tables, starts)), default=tokens)
    if tokens > longest:
        raise BudgetError(
            f"a budget in ms is for an input of 1 x 128 unless it says another, and this model reads at "
            f"most {longest} tokens: name batch and tokens, such as '8ms@1x{longest}', or tokens of a strategy"
        )
