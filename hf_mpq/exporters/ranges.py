"""Fixed activation ranges, read off example inputs."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..nn import PackedLinear
from ..nn.running import forward_inputs, real_rows, real_tokens
from ..weights import ActivationQuantizer
from ..weights.activations import ActivationGrid, DynamicTensorQuantizer, FixedGridQuantizer

SHARES = torch.linspace(0.2, 1.0, 33)
"""Of the observed range that are tried."""
SAMPLE = 4096
"""Values of each layer's input that are kept of a batch."""


@torch.no_grad()
def static_grids(model: nn.Module, batches: Sequence[Mapping]) -> dict[str, ActivationGrid]:
    """The grid of every packed linear layer's input, by name: its own where it is fixed, else the range around zero
    with the least squared error over real tokens of the examples."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, PackedLinear)}
    grids = {
        name: layer.input_quantizer.grid(torch.empty(0))
        for name, layer in layers.items()
        if isinstance(layer.input_quantizer, FixedGridQuantizer)
    }
    open_layers = {name: layer for name, layer in layers.items() if name not in grids}
    samples = _samples(model, open_layers, batches) if open_layers else {}
    for name, values in samples.items():
        grids[name] = _best(values, open_layers[name].input_quantizer or DynamicTensorQuantizer())
    return grids


def _samples(model: nn.Module, layers: Mapping[str, PackedLinear], batches: Sequence[Mapping]) -> dict[str, Tensor]:
    """Values that reach each layer: extremes of every batch, and a random part of the rest."""
    found, mask = {name: [] for name in layers}, None

    def keep(name: str, layer: PackedLinear, x: Tensor) -> None:
        values = real_rows(layer.normalised(x), mask).flatten()
        chosen = values[torch.randint(len(values), (SAMPLE,), generator=random)]
        found[name].append(torch.cat([chosen, values.amin().view(1), values.amax().view(1)]))

    hooks = [
        layer.register_forward_pre_hook(lambda layer, args, name=name: keep(name, layer, args[0]))
        for name, layer in layers.items()
    ]
    random = torch.Generator().manual_seed(0)
    try:
        for batch in batches:
            mask = real_tokens(batch)
            model(**forward_inputs(model, batch))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.cat(parts) for name, parts in found.items() if parts}


def _best(values: Tensor, quantizer: ActivationQuantizer) -> ActivationGrid:
    candidates = [quantizer.grid_of_range(share * values.amin(), share * values.amax()) for share in SHARES]
    errors = torch.stack([_error(values, grid) for grid in candidates])
    return candidates[int(errors.argmin())]


def _error(values: Tensor, grid: ActivationGrid) -> Tensor:
    step = grid.step.clamp(min=torch.finfo(torch.float32).tiny)
    levels = (torch.round(values / step) + grid.zero).clamp(grid.low, grid.high)
    return ((levels - grid.zero) * step - values).square().sum()
