"""LQ-Nets: levels of an activation that are sums of some of a learned basis."""

import torch
from torch import Tensor

from ...core import constant, from_bytes, over_processes, replace_forward, to_bytes
from ..encodings import LARGEST_SUMS
from .base import ACTIVATIONS, ActivationGrid, ActivationQuantizer
from .fixed import FixedGridQuantizer
from .sums import ROUNDS, Sample, least_squares, subsets, uniform_basis

LEARNED_BITS = 4
"""Up to so many, each part of a basis is learned; the paper ends here."""
MOST_BITS, EXAMPLES, MOST_EXAMPLES = 8, 4096, 16384


@ACTIVATIONS.register("fixed-basis")
class FixedBasisQuantizer(FixedGridQuantizer):
    """A basis that no longer changes: one scale per tensor and whole numbers `n_j`, positive or negative, whose sizes
    sum to 127 at most (up to 4 bits); kept as the bytes of floats.

    The levels are the sums of some `n_j`, times the scale: among them zero, and all of them exact in 7 bits, so that
    products with 8-bit weights are exact too where pairs of them are summed in 16 bits (AVX2). Above 4 bits the sizes
    are powers of two, which sum to `2**bits - 1`, and the levels even.
    """

    name = "fixed-basis"
    stored_bytes = 4 * (1 + MOST_BITS)

    def __init__(self, bits: int = 8):
        ActivationQuantizer.__init__(self, bits)
        self.register_buffer("grid_bytes", to_bytes(torch.zeros(1 + MOST_BITS), torch.float32))
        self._keep(*whole(2.0 ** torch.arange(bits - 1, -1, -1)))

    @property
    def options(self) -> dict:
        return {}

    @classmethod
    def of_parts(cls, scale: Tensor, parts: Tensor) -> "FixedBasisQuantizer":
        """Of a scale and its whole numbers `(bits,)`."""
        fixed = cls(len(parts)).to(scale.device)
        fixed._keep(scale, parts)
        return fixed

    def grid(self, x: Tensor) -> ActivationGrid:
        floats = from_bytes(self.grid_bytes, torch.float32)
        return grid_of(floats[0], floats[1 : 1 + self.bits])

    @torch.no_grad()
    def set_bits(self, bits: int) -> None:
        before = self.grid(self.grid_bytes)
        ActivationQuantizer.set_bits(self, bits)
        self._keep(*whole(uniform_over(before, bits)))

    def _keep(self, scale: Tensor, parts: Tensor) -> None:
        none = parts.new_zeros(MOST_BITS - len(parts))
        self.grid_bytes.copy_(to_bytes(torch.cat([scale.reshape(1), parts, none]), torch.float32))


@ACTIVATIONS.register("basis")
class BasisActivation(ActivationQuantizer):
    """`2^K` levels `b_1 v_1 + ... + b_K v_K`, `b` in `{0, 1}`, of one basis per tensor, learned by QEM and never by
    gradients (Zhang et al., LQ-Nets, ECCV 2018).

    Once per optimizer step v moves by `1 - decay` to the least-squares solution for the levels that the inputs of the
    step had, in all processes (equations 8 and 9). It starts where QEM ends on the calibration examples, from the
    uniform grids of least squared error, the best of which is taken where nothing is better. The gradient to the input
    is 1 up to the lowest and the highest level, and 0 beyond.

    Other than in the paper, whose inputs leave a ReLU, parts of v may be negative: what leaves a normalisation or a
    GELU has both signs, and zero stays a level. v is used, and stored, as a scale and whole numbers whose sizes sum to
    127 at most, so that products of integers are exact. Above 4 bits, for which the paper has no basis, levels are
    even, and only their step is learned so.

    Args:
        bits: K, 2 to 8.
        decay: of the moving average of v; the paper's is 0.9.
    """

    name = "basis"
    stored_bytes = FixedBasisQuantizer.stored_bytes
    straight_through = False

    def __init__(self, bits: int = 8, decay: float = 0.9):
        super().__init__(bits)
        if not 0 <= decay <= 1:
            raise ValueError(f"decay must be from 0 to 1, got {decay}")
        self.decay = decay
        self.register_buffer("basis_bytes", to_bytes(torch.zeros(MOST_BITS), torch.float32))
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))
        self._observed: tuple[Tensor, Tensor] | None = None
        self._examples: Tensor | None = None

    @property
    def options(self) -> dict:
        return {} if self.decay == 0.9 else {"decay": self.decay}

    @property
    def basis(self) -> Tensor:
        """v, `(bits,)` float32."""
        return from_bytes(self.basis_bytes, torch.float32)[: self.bits]

    def grid(self, x: Tensor) -> ActivationGrid:
        now = self.grid_of_range(x.detach().amin(), x.detach().amax())
        start = uniform_basis(now.step, now.zero, self.bits)
        found = grid_of(*whole(torch.where(self.ready, self.basis, start)))
        if self.bits <= LEARNED_BITS:
            return found
        step, zero = (torch.where(self.ready, one, other) for one, other in zip(found[:2], now[:2]))
        return found._replace(step=step, zero=zero)

    def fake_quantized(self, x: Tensor) -> Tensor:
        codes, grid = self.encode(x.detach())
        if self.training:
            self._observe(x.detach().float(), codes, grid)
        lowest, highest = ((end - grid.zero) * grid.step for end in ends(grid))
        value = self.decode(codes, grid).add_(x.detach(), alpha=0)  # NaN and infinity stay visible
        return replace_forward(x.clamp(lowest.to(x.dtype), highest.to(x.dtype)), value.to(x.dtype))

    def rounded(self, x: Tensor) -> Tensor:
        return super().rounded(x).add_(x, alpha=0)

    def frozen(self) -> ActivationQuantizer:
        if not self.ready:
            raise ValueError("a learned basis was never calibrated: run `hf_mpq.nn.calibrate_activations`")
        return FixedBasisQuantizer.of_parts(*whole(self.basis))

    @torch.no_grad()
    def set_bits(self, bits: int) -> None:
        before = self.grid(torch.zeros(1, device=self.basis_bytes.device))
        super().set_bits(bits)
        self._put(uniform_over(before, bits))
        self._observed = None

    @torch.no_grad()
    def reset(self) -> None:
        self.basis_bytes.zero_()
        self.ready.fill_(False)
        self._observed = self._examples = None

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Fit to this example and those before it."""
        values = x.detach().flatten().float()
        if len(values) > EXAMPLES:
            chosen = torch.randint(len(values), (EXAMPLES,), generator=torch.Generator().manual_seed(0))
            values = values[chosen.to(values.device)]
        values = values.cpu() if self._examples is None else torch.cat([self._examples, values.cpu()])
        self._examples = values[::2] if len(values) > MOST_EXAMPLES else values
        self._put(_fitted(Sample(self._examples, self.bits)).to(self.basis_bytes.device))
        self.ready.fill_(True)

    @torch.no_grad()
    def update(self) -> None:
        observed, self._observed, self._examples = self._observed, None, None
        if observed is None or not self.ready:
            return
        observed, old = [over_processes(one) for one in observed], self.basis.double()
        if self.bits <= LEARNED_BITS:
            found = least_squares(*observed, old)
        else:
            scale, parts = whole(old)
            found = parts * least_squares(*observed, scale.reshape(1))
        self._put(torch.lerp(found, old, self.decay))

    def _observe(self, x: Tensor, codes: Tensor, grid: ActivationGrid) -> None:
        """Add to the normal equations of the step: of v, or of the step of even levels."""
        if grid.levels is None:
            units = (codes - grid.zero).flatten()
            found = units.square().sum().reshape(1, 1).double(), (units * x.flatten()).sum().reshape(1).double()
        else:
            found = _normal_equations(x, torch.bucketize(codes, grid.levels), self._subsets())
        before = self._observed
        self._observed = found if before is None else (before[0] + found[0], before[1] + found[1])

    def _subsets(self) -> Tensor:
        """Which of the basis each level sums, ascending: `(2 ** bits, bits)` bool."""
        _, parts = whole(self.basis)
        rows = constant(subsets(self.bits), torch.float32, parts.device)
        return rows[torch.sort((rows * parts).sum(1), stable=True).indices].bool()

    def _put(self, basis: Tensor) -> None:
        none = basis.new_zeros(MOST_BITS - self.bits)
        self.basis_bytes.copy_(to_bytes(torch.cat([basis, none]), torch.float32))


def whole(basis: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and whole numbers, `()` and `(bits,)`, that a basis is used as; the largest gives way where the sum would
    be too large."""
    most = LARGEST_SUMS[len(basis)] if len(basis) <= LEARNED_BITS else 2 ** len(basis) - 1
    scale = basis.abs().sum() / most
    parts = torch.round(basis / torch.where(scale == 0, torch.ones_like(scale), scale))
    largest = torch.zeros_like(parts).scatter(0, parts.abs().argmax(0, keepdim=True), 1.0)
    excess = (parts.abs().sum() - max(most, 127)).clamp(min=0)
    return scale, parts - largest * parts.sign() * excess


def grid_of(scale: Tensor, parts: Tensor) -> ActivationGrid:
    """The grid of whole numbers; above 4 bits they are powers of two, and the levels even."""
    zero = (-parts).clamp(min=0).sum()
    bits = len(parts)
    if bits > LEARNED_BITS:
        return ActivationGrid(scale, zero, 0, 2**bits - 1)
    rows = constant(subsets(bits), parts.dtype, parts.device)
    return ActivationGrid(scale, zero, 0, 127, torch.sort((rows * parts).sum(1) + zero).values)


def ends(grid: ActivationGrid) -> tuple[Tensor | int, Tensor | int]:
    """Lowest and highest level."""
    return (grid.low, grid.high) if grid.levels is None else (grid.levels[0], grid.levels[-1])


def uniform_over(grid: ActivationGrid, bits: int) -> Tensor:
    """Basis of even levels over the range of a grid."""
    low, high = ((end - grid.zero) * grid.step for end in ends(grid))
    step = (high - low) / (2**bits - 1)
    return uniform_basis(step, torch.round(-low / torch.where(step == 0, torch.ones_like(step), step)), bits)


def _fitted(sample: Sample) -> Tensor:
    """The basis of least error as it would be stored, of those that QEM starts from and ends at: `(bits,)`."""
    found = starts = sample.best_starts()
    if sample.bits <= LEARNED_BITS:
        for _ in range(ROUNDS):
            found = sample.solved(found)
        found = torch.cat([starts, found])
    stored = torch.stack([scale * parts for scale, parts in map(whole, found)])
    return found[sample.error(stored).argmin()]


def _normal_equations(x: Tensor, place: Tensor, used: Tensor) -> tuple[Tensor, Tensor]:
    """Over all numbers of which places say the levels: how many use both of two parts, `(bits, bits)`, and the sum of
    those that use each, `(bits,)`; float64."""
    planes = [column[place] for column in used.unbind(1)]
    left = torch.stack([torch.stack([(one & other).sum() for other in planes]) for one in planes])
    right = torch.stack([torch.where(plane, x, 0.0).sum() for plane in planes])
    return left.double(), right.double()
