"""Levels that are sums of some of a basis, and QEM for them: LQ-Nets' activations (Zhang et al., ECCV 2018).

Level `b` of a basis `v` `(K,)` is `b_1 v_1 + ... + b_K v_K` with `b` in `{0, 1}`: no bit is the level zero. A uniform
grid of `2^K` levels with the zero point z is the basis `+-2^j`, negative where z has the bit `2^j`. Samples are float64
on the CPU.
"""

from functools import lru_cache

import torch
from torch import Tensor

from ..quantizers.qem import RIDGE

SHARES = torch.linspace(0.1, 1.0, 37, dtype=torch.float64)
"""Of the observed range that uniform grids reach, when a basis starts."""
STARTS = 4
"""Uniform grids, the best of which QEM starts from."""
ROUNDS = 30


@lru_cache
def subsets(bits: int) -> tuple[tuple[int, ...], ...]:
    """Which of the basis each code sums, its highest bit first: `(2 ** bits, bits)`."""
    return tuple(tuple(code >> bit & 1 for bit in reversed(range(bits))) for code in range(2**bits))


def uniform_basis(step: Tensor, zero: Tensor, bits: int) -> Tensor:
    """Bases `(..., K)` of the levels `step * (0 - zero), ..., step * (2^K - 1 - zero)`; `zero` whole, `(...)`."""
    powers = torch.arange(bits - 1, -1, -1, device=step.device)
    negative = zero.to(torch.int64).unsqueeze(-1) >> powers & 1
    return step.unsqueeze(-1) * 2**powers * (1 - 2 * negative)


class Sample:
    """Numbers, of which each set of levels knows its squared error and its least-squares basis without a pass over all.

    Args:
        values: `(n,)`.
        bits: K.
    """

    def __init__(self, values: Tensor, bits: int):
        self.bits, self.values = bits, values.double().sort().values
        self._sums = torch.cat([self.values.new_zeros(1), self.values.cumsum(0)])
        self._squares = self.values.square().sum()
        self._rows = torch.tensor(subsets(bits), dtype=torch.float64)

    def error(self, bases: Tensor) -> Tensor:
        """Squared error of the nearest level, summed: `(bases,)` for `(bases, K)`."""
        levels, _, counts, sums = self._cells(bases)
        return self._squares + (levels.square() * counts - 2 * levels * sums).sum(1)

    def solved(self, bases: Tensor) -> Tensor:
        """Bases of least squares for the levels that the numbers have under these (equation 9): `(bases, K)`."""
        _, codes, counts, sums = self._cells(bases)
        rows = self._rows[codes]  # (bases, levels, K)
        return least_squares(
            rows.transpose(1, 2) @ (counts.unsqueeze(2) * rows), (sums.unsqueeze(1) @ rows).squeeze(1), bases
        )

    def uniform(self) -> Tensor:
        """Bases of the uniform grids that reach a share of the range, with every zero point: `(grids, K)`."""
        low, high = self.values[0].clamp(max=0), self.values[-1].clamp(min=0)
        most = 2**self.bits - 1
        zeros = torch.arange(most + 1, dtype=torch.float64)
        own = torch.round(-low / ((high - low) / most).clamp(min=1e-30)).clamp(0, most)
        zeros = zeros if self.bits <= 4 else own.unsqueeze(0)
        steps = SHARES * (high - low) / most
        steps, zeros = (one.flatten() for one in torch.meshgrid(steps, zeros, indexing="ij"))
        return uniform_basis(steps, zeros, self.bits)

    def best_starts(self) -> Tensor:
        """The uniform bases of least error, that of the least first: `(at most STARTS, K)`."""
        found = self.uniform()
        return found[self.error(found).argsort(stable=True)[:STARTS]]

    def _cells(self, bases: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Ascending levels, their codes, how many numbers are nearest to each, and their sum: `(bases, 2^K)` each."""
        levels, codes = torch.sort(bases @ self._rows.T, dim=1, stable=True)
        between = (levels[:, 1:] + levels[:, :-1]) / 2
        inner = torch.searchsorted(self.values, between.contiguous(), right=True)  # at a boundary the lower one
        none = inner.new_zeros(len(bases), 1)
        ends = torch.cat([none, inner, none + len(self.values)], dim=1)
        return levels, codes, ends.diff(dim=1).double(), self._sums[ends].diff(dim=1)


def least_squares(left: Tensor, right: Tensor, old: Tensor) -> Tensor:
    """Solution `(..., K)` of the normal equations `left` `(..., K, K)` and `right` `(..., K)`; a part of the basis that
    no number uses stays the old one."""
    ridge = RIDGE * torch.eye(left.shape[-1], dtype=left.dtype, device=left.device)
    return torch.linalg.solve_ex(left + ridge, right + RIDGE * old).result
