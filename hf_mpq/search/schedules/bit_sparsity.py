"""BSQ: bit planes that a penalty empties, and that are stripped off now and then."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ...nn.matrix import QuantizedMatrix
from ...nn.walk import matrices
from ...weights.gates import StrippedPlanesGate
from ...weights.sources import RoundedPlanes
from ..strategies.base import Progress
from ..strategies.plane_memory import check_memory
from .base import SCHEDULES, Schedule


@SCHEDULES.register("bit-sparsity")
class BitSparsity(Schedule):
    """The training of BSQ (Yang et al., ICLR 2021): a group lasso on bit planes, `strength * sum_g (N_g n_g / N) sum_b
    |p_b|_2` with the weights N_g and open planes n_g of each sub-group and the weights N of all, so that large ones pay
    more for a bit. After each step planes are kept from 0 to 2. Every few steps, and at the end, sums are rounded and
    taken apart into planes anew, a code that has outgrown its planes gets one more, and planes that are all zero are
    stripped off at both ends: off the lower end that doubles the scale, and changes no value.

    Args:
        strength: alpha, 5e-3 to 2e-2 in the paper, where a sub-group is a layer.
        every: share of the stage between two times.

    Raises:
        ValueError: for a strength below zero, or a share that is none.
    """

    def __init__(self, strength: float = 5e-3, every: float = 0.1):
        if strength < 0 or not 0 < every <= 1:
            raise ValueError(f"strength is at least 0, and every a share above 0; got {strength} and {every}")
        self.strength, self.every = strength, every

    def prepare(self, model: nn.Module) -> None:
        """Raises ValueError when no matrix has planes that can be stripped off, or they do not fit into memory."""
        if not any(True for _ in _stripped(model)):
            raise ValueError(
                "bit-sparsity needs planes that can be stripped off: quantize with several bits, "
                "gate='stripped-planes', source='rounded-planes' and, with 2 among the bits, "
                "quantizer={'name': 'symmetric', 'two_bits': 'ternary'}"
            )
        check_memory(model)

    def before_step(self, model: nn.Module, progress: Progress) -> None:
        if progress.step and progress.step % max(round(self.every * progress.steps), 1) == 0:
            rebinarise(model)

    def penalty(self, model: nn.Module, progress: Progress) -> Tensor | None:
        layers = [layer.program for layer in _stripped(model)]
        total = sum(program.source.planes[0].numel() for program in layers)
        parts = [_lasso(program.source, program.gate.open) for program in layers]
        return self.strength / max(total, 1) * sum(parts) if parts else None

    def after_step(self, model: nn.Module, progress: Progress) -> None:
        for layer in _stripped(model):
            layer.program.source.clamp(layer.program.gate.open)

    def finish(self, model: nn.Module) -> None:
        rebinarise(model)

    @torch.no_grad()
    def metrics(self, model: nn.Module) -> dict[str, float]:
        """`planes`: open ones, as a share of all."""
        found = [layer.program.gate.open.float().mean() for layer in _stripped(model)]
        return {"planes": float(torch.stack(found).mean())} if found else {}


@torch.no_grad()
def rebinarise(model: nn.Module) -> None:
    """Take the codes of every matrix apart into planes of 0 and 1, and strip off those that are all zero."""
    for layer in _stripped(model):
        source, gate = layer.program.source, layer.program.gate
        gate.strip(source.rebinarise(gate.choose().window), source.scale)


def _lasso(source: RoundedPlanes, opened: Tensor) -> Tensor:
    """`sum_g N_g n_g sum_b |p_b|_2` over the open planes of a matrix."""
    squares = torch.stack([source.layout.reduce(plane, "sum") for plane in source.planes.square()], dim=1)
    sizes = torch.tensor(source.layout.numel, dtype=squares.dtype, device=squares.device)
    norms = ((squares + 1e-8).sqrt() * opened).sum(1)
    return (sizes * opened.sum(1) * norms).sum()


def _stripped(model: nn.Module) -> Iterator[QuantizedMatrix]:
    """Matrices with planes that can be stripped off."""
    for _, layer in matrices(model):
        program = layer.program
        if isinstance(program.gate, StrippedPlanesGate) and isinstance(program.source, RoundedPlanes):
            yield layer
