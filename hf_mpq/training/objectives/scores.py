"""Scaled dot products of projections, head by head."""

from torch import Tensor


def scaled_products(rows: Tensor, columns: Tensor, heads: int) -> Tensor:
    """`rows columns^T / sqrt(width)` of every head, `(batch, heads, tokens, tokens)` in float32.

    Args:
        rows, columns: projections, `(batch, tokens, heads * width)`.
        heads: in how many parts the last axis is cut.
    """
    left, right = (x.float().unflatten(-1, (heads, -1)).transpose(1, 2) for x in (rows, columns))
    return left @ right.mT / left.shape[-1] ** 0.5
