"""Scans of scales that a test before did already, of an equal weight: looked up, as `compress` does in one call."""

import torch
from torch import Tensor
from xxhash import xxh3_128_digest

from hf_mpq.weights.quantizers import scan

_found: dict[tuple, Tensor] = {}
_scanned = scan._scanned


def scanned(layout, weight: Tensor, grid, dtype: torch.dtype, live: Tensor | None) -> Tensor:
    """What the scan gives for all that it depends on; on a CPU it is done once."""
    if weight.device.type != "cpu" or torch.compiler.is_compiling():
        return _scanned(layout, weight, grid, dtype, live)
    key = (layout, grid, dtype, _content(weight), None if live is None else _content(live))
    with torch.inference_mode(False), torch.no_grad():
        if key not in _found:
            _found[key] = _scanned(layout, weight, grid, dtype, live)
        return _found[key].clone()


def _content(tensor: Tensor) -> tuple:
    return tensor.dtype, tensor.shape, xxh3_128_digest(tensor.detach().contiguous().view(torch.uint8).numpy())
