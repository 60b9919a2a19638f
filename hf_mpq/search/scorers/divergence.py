"""Measured Kullback-Leibler divergence of a changed model's outputs from those of the float model."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from ...nn import absolute_name, are_chained, encoder_blocks, family_of, record_blocks
from ...nn.heads import Decisions, decisions_of
from .outputs import output_divergence
from .passes import Batch, batches_on, evaluating

KEPT_BYTES = 2**28
"""Of the float model's outputs, at most so many are kept between two comparisons."""


@dataclass(frozen=True)
class Reference:
    """What the float model gives, to compare with again and again.

    Attributes:
        batches: as they were given to `reference_of`, on the device.
        outputs: of each batch, by name: see `hf_mpq.nn.heads`.
        blocks: encoder layers by relative name, with what each gave for each batch; empty where a pass cannot begin at
            a layer.
    """

    batches: list[Batch]
    outputs: list[dict[str, Decisions]]
    blocks: dict[str, tuple[nn.Module, list[Tensor | tuple]]] = field(default_factory=dict)

    def before(self, names: Iterable[str]) -> list[tuple[nn.Module, list[Tensor | tuple]]]:
        """Encoder layers that changes of these matrices leave as they are: those before the first one changed."""
        blocks = list(self.blocks)
        owners = [next((k for k, block in enumerate(blocks) if name.startswith(f"{block}.")), 0) for name in names]
        return list(self.blocks.values())[: min(owners, default=0)]


def reference_of(model: nn.Module, batches: Iterable[Mapping], cache: bool = True) -> Reference:
    """Run the float model once.

    Args:
        model: float.
        batches: keyword arguments of forward; labels are left out.
        cache: keep what every encoder layer gave, so that later passes begin at the first changed layer. Takes
            `layers * tokens * hidden` floats, and is left out where layers do not simply follow each other.
    """
    given = batches_on(model, batches)
    with evaluating(model), torch.no_grad():
        outputs = [_outputs(model, model.config, batch) for batch in given]
        return Reference(given, outputs, _cached_blocks(model, given) if cache else {})


@torch.no_grad()
def divergence(
    model: nn.Module,
    changes: Mapping[str, Tensor],
    reference: Reference,
    batches: Sequence[int] | None = None,
    touched: Iterable[str] = (),
) -> Tensor:
    """Divergence per example from the float outputs while some matrices are changed; the model is as before after it.

    Args:
        model: the float model that `reference` was made of.
        changes: relative name of a matrix to what is added to its weight, `(out, in)`.
        reference: from `reference_of`.
        batches: positions of the batches to run; None runs all.
        touched: matrices with which something else is done.

    Returns:
        `(examples,)` float64; see `output_divergence`.

    Raises:
        ValueError: for a matrix that the model does not have.
    """
    chosen = range(len(reference.batches)) if batches is None else batches
    with evaluating(model), _changed(model, changes):
        skipped, found = reference.before([*changes, *touched]), []
        for position in chosen:
            batch = reference.batches[position]
            with _skipping(skipped, position):
                after = _outputs(model, model.config, batch)
            found.append(output_divergence(reference.outputs[position], after))
    return torch.cat(found)


@torch.no_grad()
def mean_divergence(
    model: nn.Module, quantized: nn.Module, batches: Iterable[Mapping], kept: list | None = None
) -> float:
    """Mean divergence per example of a quantized model's outputs from the float model's.

    Args:
        model: float.
        quantized: what is compared with it.
        batches: keyword arguments of forward; labels are left out.
        kept: takes what the float model gives for each batch, up to `KEPT_BYTES`, and gives it the next time.
    """
    found, kept = [], [] if kept is None else kept
    with evaluating(model), evaluating(quantized):
        for position, batch in enumerate(batches_on(model, batches)):
            before = kept[position] if position < len(kept) else _outputs(model, quantized.config, batch)
            if position == len(kept) and sum(map(_bytes, [*kept, before])) <= KEPT_BYTES:
                kept.append(before)
            found.append(output_divergence(before, _outputs(quantized, quantized.config, batch)))
    return float(torch.cat(found).mean())


def _bytes(outputs: Mapping[str, Decisions]) -> int:
    return sum(one.scores.nbytes for one in outputs.values())


def _outputs(model: nn.Module, config: PretrainedConfig, batch: Batch) -> dict[str, Decisions]:
    """What a model says about a batch, read as a config says."""
    return decisions_of(config, model(**batch.inputs), batch.mask)


def _cached_blocks(model: nn.Module, batches: list[Batch]) -> dict[str, tuple[nn.Module, list[Tensor | tuple]]]:
    """What each encoder layer gave, in the form that it gave it in."""
    if family_of(model) is None:
        return {}
    modules, records = encoder_blocks(model), record_blocks(model, [batch.inputs for batch in batches])
    if not are_chained(list(records.values()), len(batches)):
        return {}
    name, record = next(iter(records.items()))
    args, kwargs = record.others[0]
    given = modules[name](record.hidden[0], *args, **kwargs)
    rest = given[1:] if isinstance(given, tuple) else ()
    if any(part is not None for part in rest):
        return {}
    pack = (lambda hidden: (hidden, *rest)) if isinstance(given, tuple) else (lambda hidden: hidden)
    return {name: (modules[name], [pack(hidden) for hidden in record.outputs]) for name, record in records.items()}


@contextmanager
def _changed(model: nn.Module, changes: Mapping[str, Tensor]) -> Iterator[None]:
    full = {name: absolute_name(model, name) for name in changes}
    missing = [name for name, found in full.items() if found is None]
    if missing:
        raise ValueError(f"the model has no matrix {missing[0]!r}; use the names of its resolved space")
    saved = [(model.get_submodule(full[name]).weight, change) for name, change in changes.items()]
    saved = [(weight, change, weight.detach().clone()) for weight, change in saved]
    try:
        for weight, change, _ in saved:
            weight.add_(change.to(weight))
        yield
    finally:
        for weight, _, before in saved:
            weight.copy_(before)


@contextmanager
def _skipping(blocks: Sequence[tuple[nn.Module, list[Tensor | tuple]]], position: int) -> Iterator[None]:
    """Layers answer with what they gave for the batch at `position`, at once."""
    own = [block.__dict__.get("forward") for block, _ in blocks]
    try:
        for block, given in blocks:
            block.forward = lambda *args, _given=given[position], **kwargs: _given
        yield
    finally:
        for (block, _), forward in zip(blocks, own):
            if forward is None:
                del block.forward
            else:
                block.forward = forward
