"""What one choice costs while all others stay as they are."""

import numpy as np
import torch
from numpy.typing import NDArray

from ...core import PrecisionSpace
from ...cost import CostModel
from ...cost.exact import ExactMatrix

Array = NDArray[np.float64]


def weight_prices(cost: CostModel, space: PrecisionSpace, name: str, now: ExactMatrix | None) -> Array:
    """Of each precision of each sub-group of a matrix, `(groups, candidates)`, at the bits that its input has now, or
    would have where those follow the precision."""
    live, activation = None if now is None else now.live_columns, space.weights[name].activation
    if activation is None or not activation.candidates:
        return cost.table(name, live).numpy()
    if not activation.follows:
        bits = _middle(activation.candidates) if now is None else now.activation_bits
        return cost.table(name, live, bits).numpy()
    inputs = [activation.following((bits,)) for bits in space.weights[name].candidates]
    return np.stack([cost.table(name, live, bits)[:, k].numpy() for k, bits in enumerate(inputs)], axis=1)


def input_prices(cost: CostModel, space: PrecisionSpace, name: str, now: ExactMatrix | None) -> Array:
    """Of each candidate of the input of a matrix, `(1, candidates)`, at the precisions that its sub-groups have now."""
    spec = space.weights[name]
    fixed = spec.bits or (_middle(spec.candidates),) * spec.layout.count
    bits = torch.tensor(fixed if now is None else now.bits.tolist())
    return cost.input_table(name, bits, None if now is None else now.live_columns).numpy()[None]


def _middle(candidates: tuple[int, ...]) -> int:
    return candidates[len(candidates) // 2]
