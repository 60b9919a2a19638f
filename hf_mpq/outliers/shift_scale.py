"""Outlier Suppression+: every channel is centred, and those beyond a threshold are scaled down to it."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from ..nn import MPQLinear
from ..nn.affine import shift_and_scale
from ..weights import ActivationQuantizer
from .base import OUTLIERS, InputAffine, OutlierRule
from .inputs import InputGroup


@OUTLIERS.register("os+")
class ShiftAndScale(OutlierRule):
    """`z = (max + min) / 2`, then `s = max(1, max / t, min / -t)` of the centred channel (Wei et al., 2023).

    One threshold t for all layers that share an input, the best of a grid: it minimises the squared error of the
    layers' outputs with weights and inputs quantized as the layers do it. A group for which nothing is better than its
    input as it is gets no affine. Where a layer has no bias, z is 0.

    The paper takes the error of the attention and feed-forward sub-layers; here it is that of the layers that read the
    input, which needs no second pass through the sub-layer.

    Args:
        points: thresholds tried, evenly from the largest absolute value down (the paper: 100 or more). Those that give
            the same scales as the one before are passed over.
        patience: thresholds without an improvement after which the search ends; None tries all.
    """

    parts = ("scale", "shift")

    def __init__(self, points: int = 100, patience: int | None = 15):
        if points < 1:
            raise ValueError(f"at least one threshold must be tried, got points={points}")
        self.points, self.patience = points, points if patience is None else patience

    @torch.no_grad()
    def affine(self, group: InputGroup) -> InputAffine | None:
        trials = [_Trial(layer, group) for layer in group.layers.values()]
        best, least, waited = None, sum(trial.error(None) for trial in trials), 0
        for candidate in self._candidates(group):
            error, waited = sum(trial.error(candidate) for trial in trials), waited + 1
            if error < least:
                best, least, waited = candidate, error, 0
            if waited >= self.patience:
                break
        return best

    def _candidates(self, group: InputGroup) -> Iterator[InputAffine]:
        shift = (group.high + group.low) / 2 if group.shiftable else None
        reach = torch.maximum(group.high, -group.low) if shift is None else (group.high - group.low) / 2
        before = None
        for point in range(self.points, 0, -1):
            scale = (reach / (reach.max() * point / self.points).clamp(min=1e-12)).clamp(min=1)
            if before is None or not torch.equal(scale, before):
                yield InputAffine(scale, shift)
            before = scale


class _Trial:
    """One layer's output with a shift and a scale, against its float output.

    While thresholds are tried, the scales of the weight follow the root mean square of each sub-group, which costs one
    pass instead of a scan; the layer's own scales are set anew once the threshold is found.
    """

    def __init__(self, layer: MPQLinear, group: InputGroup):
        self.weight = layer.without_affine(layer.kept_weight(), layer.bias)[0]
        self.inputs, self.bounds = group.tokens, torch.stack([group.low, group.high])
        self.activation, self.dtype = layer.input_quantizer.spec, getattr(torch, layer.spec.float_dtype)
        self.program = copy.deepcopy(layer.program)
        self.program.calibrate(self.weight)
        self.floats = {bits: content.floats for bits, content in self.program.encode(self.weight).items()}
        self.target = self.inputs @ self.weight.T

    @torch.no_grad()
    def error(self, affine: InputAffine | None) -> float:
        """Squared error of the output with everything quantized; None: of the input as it is."""
        scale, shift = (None if values is None else values.to(self.dtype).float() for values in affine or (None, None))
        quantizer = ActivationQuantizer.from_spec(self.activation).to(self.weight.device).eval()
        quantizer.calibrate(shift_and_scale(self.bounds, shift, scale))
        inputs = quantizer(shift_and_scale(self.inputs, shift, scale))
        error = inputs @ self._quantized(self.weight if scale is None else self.weight * scale).T - self.target
        return float((error if shift is None else error + self.weight @ shift).square().sum())

    def _quantized(self, weight: Tensor) -> Tensor:
        layout, bits = self.program.layout, self.program.gate.derive()
        before, now = (layout.reduce(values.square(), "sum") for values in (self.weight, weight))
        growth = (now / before.clamp(min=1e-20)).sqrt().unsqueeze(1)
        for precision, floats in self.floats.items():
            groups = (bits == precision).nonzero().flatten()
            self.program.quantizer.restore(precision, groups, floats * growth[groups])
        return self.program(weight)
