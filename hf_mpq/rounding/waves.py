"""Quantized linear layers in the order they run, a few at a time, with what flows through them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..nn import MPQLinear, absolute_name, encoder_blocks, family_of
from ..nn.held import held_weights
from ..nn.running import forward_inputs, real_rows, real_tokens
from ..nn.walk import matrices
from .walk import BlockStep, walk_blocks


class Observation(NamedTuple):
    """Real tokens that went through a layer in one call.

    Attributes:
        inputs: as its product reads them, shifted, scaled and quantized, `(tokens, in)`.
        outputs: `(tokens, out)`.
        wanted: outputs of the float layer on the same tokens in the float model; None without a reference.
    """

    inputs: Tensor
    outputs: Tensor
    wanted: Tensor | None


class Call(NamedTuple):
    """One batch through a part of the quantized model, and of the float one; `mask` `(batch, tokens)` bool or None."""

    mask: Tensor | None
    run: Callable[[], object]
    run_twin: Callable[[], object] | None


@dataclass
class Wave:
    """Layers that do not feed each other; what they read does not change while they are changed.

    Attributes:
        layers: relative name to layer.
        twins: relative name to float layer; empty without a reference.
        calls: batches to run.
        part: module whose quantized weights stand still meanwhile.
        stops: names of modules, of each model, before which a run may end.
    """

    layers: dict[str, MPQLinear]
    twins: dict[str, nn.Module]
    calls: Sequence[Call]
    part: nn.Module
    stops: list[nn.Module] = field(default_factory=list)

    @torch.no_grad()
    def observations(self, layers: Mapping[str, MPQLinear]) -> Iterator[tuple[str, Observation]]:
        """Run the batches, one at a time, and tell what went through some of the wave's layers; one that is called
        several times in a batch gives as many observations."""
        twins = {name: self.twins[name] for name in layers} if self.twins else {}
        with held_weights(self.part):
            for call in self.calls if layers else ():
                own = _watch(layers, call.run, call.mask, self.stops)
                wanted = _watch(twins, call.run_twin, call.mask, self.stops) if twins else {}
                for name, seen in own.items():
                    for position, (x, y) in enumerate(seen):
                        yield name, Observation(x, y, wanted[name][position][1] if twins else None)


def all_waves(
    model: nn.Module, reference: nn.Module | None, batches: Sequence[Mapping], description: str, progress: bool = False
) -> Iterator[Wave]:
    """Every quantized linear layer that the batches reach: those before the encoder, block after block, the rest.

    Both models are to be in eval mode. Inside a block the waves are query, key and value (and matrices of positions),
    output, up, down; a block of an unknown family is one wave.
    """
    blocks, layers = encoder_blocks(model), dict(matrices(model, MPQLinear))
    outside = {name: layer for name, layer in layers.items() if not name.startswith(tuple(f"{b}." for b in blocks))}
    stops = [block for one in (model, reference) if one is not None for block in list(encoder_blocks(one).values())[:1]]
    calls = [_whole_call(model, reference, batch) for batch in batches]
    early = _watch(outside, calls[0].run, None, stops) if outside and stops else {}
    if early:
        early = {name: outside.pop(name) for name in early}
        yield Wave(early, _twins(reference, early), calls, model, stops)
    for step in walk_blocks(model, reference, batches, description, progress):
        yield from _block_waves(model, reference, step, layers)
    if outside:
        yield Wave(outside, _twins(reference, outside), calls, model)


def _block_waves(model: nn.Module, reference: nn.Module | None, step: BlockStep, layers: Mapping) -> Iterator[Wave]:
    calls = [
        Call(
            step.calls.masks[call],
            partial(step.calls.run, step.block, call),
            step.wanted and partial(step.wanted.run, step.twin, call),
        )
        for call in range(len(step.calls))
    ]
    waves = [{name: layers[name] for name in names} for names in _names_in_waves(model, step.name, layers)]
    for number, wave in enumerate(waves):
        following = waves[number + 1] if number + 1 < len(waves) else {}
        stops = [*following.values(), *_twins(reference, following).values()]
        yield Wave(wave, _twins(reference, wave), calls, step.block, stops)


def _names_in_waves(model: nn.Module, block: str, layers: Mapping) -> list[list[str]]:
    """Relative names of the quantized matrices of a block, in waves; empty waves are left out."""
    inside = [name for name in layers if name.startswith(f"{block}.")]
    family = family_of(model)
    later = () if family is None else ((family.names.output,), family.names.feed_forward, (family.names.down,))
    later = [[f"{block}.{name}" for name in wave if f"{block}.{name}" in inside] for wave in later]
    waves = [[name for name in inside if not any(name in wave for wave in later)], *later]
    return [wave for wave in waves if wave]


def _twins(reference: nn.Module | None, layers: Mapping) -> dict[str, nn.Module]:
    if reference is None:
        return {}
    return {name: reference.get_submodule(absolute_name(reference, name)) for name in layers}


def _whole_call(model: nn.Module, reference: nn.Module | None, batch: Mapping) -> Call:
    mask = real_tokens(forward_inputs(model, batch))
    run_twin = None if reference is None else lambda: reference(**forward_inputs(reference, batch))
    return Call(mask, lambda: model(**forward_inputs(model, batch)), run_twin)


class _Stop(Exception):
    """Ends a run early."""


@torch.no_grad()
def _watch(
    layers: Mapping[str, nn.Module], run: Callable[[], object], mask: Tensor | None, stops: Sequence[nn.Module]
) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Inputs and outputs of every call of the layers that are reached, real tokens only."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def watcher(name: str):
        def hook(layer: nn.Module, args: tuple, output: Tensor) -> None:
            x = _read_by_product(layer, args[0])
            seen.setdefault(name, []).append((real_rows(x, mask), real_rows(output, mask)))

        return hook

    def stop(module: nn.Module, args: tuple) -> None:
        raise _Stop

    hooks = [layer.register_forward_hook(watcher(name)) for name, layer in layers.items()]
    hooks += [module.register_forward_pre_hook(stop) for module in stops]
    try:
        run()
    except _Stop:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _read_by_product(layer: nn.Module, x: Tensor) -> Tensor:
    if not isinstance(layer, MPQLinear):
        return x
    x = layer.normalised(x)
    return x if layer.input_quantizer is None else layer.input_quantizer(x)
