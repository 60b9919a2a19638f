"""What linear layers read: which of them read the same tensor, which normalisation wrote it, and what was in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

import torch
from torch import Tensor, nn

from ..nn import MPQLinear
from ..nn.running import evaluating, forward_inputs, real_rows, real_tokens


@dataclass
class InputGroup:
    """Layers that read the same tensor, such as query, key and value.

    Attributes:
        layers: relative name to layer.
        norm: the normalisation whose output they read as it is, at least in some call; None where there is none.
        low, high: smallest and largest value of each channel over all real tokens, `(in,)` float32.
        tokens: some of the real tokens' inputs, `(tokens, in)` float32.
    """

    layers: dict[str, MPQLinear]
    norm: nn.LayerNorm | None
    low: Tensor
    high: Tensor
    tokens: Tensor

    @property
    def shiftable(self) -> bool:
        """Whether every layer has a bias that can make up for a shift."""
        return all(layer.bias is not None for layer in self.layers.values())


@dataclass
class _Observed:
    """What one layer read so far.

    Attributes:
        source: place in memory and shape of its first input.
        norm: the normalisation that wrote it, or else a later one (layers of shared weights are called several times).
    """

    source: tuple | None = None
    norm: nn.LayerNorm | None = None
    low: Tensor | None = None
    high: Tensor | None = None
    rows: list[Tensor] = field(default_factory=list)

    def add(self, x: Tensor, quota: int) -> None:
        low, high = x.amin(0), x.amax(0)
        self.low = low if self.low is None else torch.minimum(low, self.low)
        self.high = high if self.high is None else torch.maximum(high, self.high)
        self.rows.append(x[:: ceil(len(x) / quota)].clone())


class _Recorder:
    """Hooks on layers and normalisations during a few forward passes."""

    def __init__(self, quota: int):
        self.quota = quota
        self.observed: dict[str, _Observed] = {}
        self.written: dict[tuple, tuple[nn.LayerNorm, Tensor]] = {}
        self.alive: list[Tensor] = []
        self.first, self.mask = True, None

    def reads(self, name: str):
        observed = self.observed[name] = _Observed()

        def hook(layer: nn.Module, args: tuple) -> None:
            if self.first:
                observed.source = observed.source or self._place(args[0])
                observed.norm = observed.norm or self._writer(args[0])
            observed.add(real_rows(args[0], self.mask).float(), self.quota)

        return hook

    def writes(self, norm: nn.LayerNorm, args: tuple, output: Tensor) -> None:
        if self.first:
            self.written[self._place(output)] = norm, output

    def _writer(self, x: Tensor) -> nn.LayerNorm | None:
        """The normalisation that gave `x`, or gave it but for padding (which some families set to zero)."""
        last = (entry for entry in reversed(self.written.values()) if entry[1].shape == x.shape)
        norm, output = self.written.get(self._place(x)) or next(last, (None, x))
        return norm if torch.equal(real_rows(output, self.mask), real_rows(x, self.mask)) else None

    def _place(self, x: Tensor) -> tuple:
        self.alive.append(x)  # so that no other tensor takes its memory
        return x.data_ptr(), tuple(x.shape)


@torch.no_grad()
def record_inputs(
    model: nn.Module, layers: Mapping[str, MPQLinear], batches: Sequence[Mapping], tokens: int
) -> list[InputGroup]:
    """Run batches through the model in eval mode and gather what `layers` read, their inputs not quantized meanwhile.

    Groups and normalisations are found by following tensors, so that nothing needs to be known of the family. A layer
    that reads several tensors (shared layers, relative positions) belongs to the group of the first one, and its ranges
    cover all.

    Args:
        layers: by relative name; layers that are not reached (a head that the batches do not use) are left out.
        batches: keyword arguments of forward, as tensors; labels are left out, padding does not count.
        tokens: how many inputs of each layer to keep, about.
    """
    recorder = _Recorder(max(1, tokens // max(len(batches), 1)))
    hooks = [layer.register_forward_pre_hook(recorder.reads(name)) for name, layer in layers.items()]
    hooks += [m.register_forward_hook(recorder.writes) for m in model.modules() if isinstance(m, nn.LayerNorm)]
    quantizers = {name: layer.input_quantizer for name, layer in layers.items()}
    try:
        for layer in layers.values():
            layer.input_quantizer = None
        with evaluating(model):
            for batch in batches:
                inputs = forward_inputs(model, batch)
                recorder.mask = real_tokens(inputs)
                model(**inputs)
                recorder.first = False
    finally:
        for hook in hooks:
            hook.remove()
        for name, layer in layers.items():
            layer.input_quantizer = quantizers[name]
    return _grouped(layers, recorder)


def _grouped(layers: Mapping[str, MPQLinear], recorder: _Recorder) -> list[InputGroup]:
    groups: dict[tuple, list[str]] = {}
    for name, observed in recorder.observed.items():
        if observed.source is not None:
            groups.setdefault(observed.source, []).append(name)
    found = []
    for names in groups.values():
        members = [recorder.observed[name] for name in names]
        low = torch.stack([member.low for member in members]).amin(0)
        high = torch.stack([member.high for member in members]).amax(0)
        tokens = torch.cat(members[0].rows)
        found.append(InputGroup({name: layers[name] for name in names}, members[0].norm, low, high, tokens))
    return found
