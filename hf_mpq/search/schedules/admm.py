"""ADMM: weights that are drawn towards what their masks will keep, before anything is dropped."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...nn.matrix import QuantizedMatrix
from ...nn.walk import matrices
from ..strategies.base import Progress
from .base import SCHEDULES, Schedule


@SCHEDULES.register("admm")
class ADMM(Schedule):
    """Alternating direction method of multipliers onto the masks of the model, in its scaled form (Boyd et al., 2011,
    section 3.1.1; for N:M patterns NxMTransformer, Holmes et al., NeurIPS 2021).

    The masks are open, and every step has the penalty `rho/2 ||W - Z + U||^2` of each matrix. Every so often
    `Z = P(W + U)` and `U = U + W - Z`, with `P` the projection onto what the mask can keep; once at the start too, from
    `U = 0`. At the end each mask takes the largest |w| of its own. Weight decay and the clipping of gradients are the
    trainer's: the one pulls at W alone, the other sees the penalty.

    Only the projection onto the mask is in it: forward rounds W as ever, straight-through.

    Args:
        rho: weight of the penalty; 0 trains as without it.
        every: steps between two projections, below 1 a share of the stage's.

    Raises:
        ValueError: for a negative weight, or no steps.
    """

    def __init__(self, rho: float = 1e-3, every: float = 0.1):
        if rho < 0:
            raise ValueError(f"rho is the weight of a penalty, from 0; got {rho}")
        if every <= 0 or (every > 1 and every != int(every)):
            raise ValueError(f"every is a number of steps, or below 1 a share of the stage's; got {every}")
        self.rho, self.every = rho, every
        self.projected: dict[str, Tensor] = {}
        """`Z` by the name of its matrix, `(out, in)` float32."""
        self.dual: dict[str, Tensor] = {}
        """`U`, as `Z`."""

    @torch.no_grad()
    def prepare(self, model: nn.Module) -> None:
        """Open the masks and do the first projection; raises ValueError when there is no mask, nor a pattern that could
        have been chosen."""
        if not any(layer.program.mask is not None or layer.spec.patterns for _, layer in matrices(model)):
            raise ValueError("admm needs masks: quantize with MPQConfig(mask='n:m') or mask='element'")
        for _, layer in _masked(model):
            if not layer.program.mask.keep.all():
                layer.program.revisit_mask(layer.weight.float(), 0.0)
                layer.calibrate()
        self.dual = {name: torch.zeros_like(_weight(layer)) for name, layer in _masked(model)}
        self._project(model)

    def penalty(self, model: nn.Module, progress: Progress) -> Tensor | None:
        if self.rho == 0:
            return None
        squares = [(_weight(layer) - self._target(name, layer)).square().sum() for name, layer in _masked(model)]
        return self.rho / 2 * torch.stack(squares).sum() if squares else None

    def after_step(self, model: nn.Module, progress: Progress) -> None:
        if progress.step % self._steps(progress) == 0:
            self._project(model)

    @torch.no_grad()
    def finish(self, model: nn.Module) -> None:
        for _, layer in _masked(model):
            layer.program.revisit_mask(layer.weight.float())

    @torch.no_grad()
    def metrics(self, model: nn.Module) -> dict[str, float]:
        """`primal_residual`: `||W - Z|| / ||W||` over all matrices, 0 where all is as the masks want it."""
        parts = [
            (float((weight - z.to(weight)).square().sum()), float(weight.square().sum()))
            for weight, z in ((_weight(layer), self.projected[name]) for name, layer in _masked(model))
        ]
        far, size = (sum(part) for part in zip(*parts)) if parts else (0.0, 0.0)
        return {"primal_residual": (far / size) ** 0.5 if size else 0.0}

    def state_dict(self) -> dict[str, Any]:
        return {"projected": dict(self.projected), "dual": dict(self.dual)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.projected, self.dual = dict(state["projected"]), dict(state["dual"])

    def _steps(self, progress: Progress) -> int:
        return max(round(self.every * progress.steps if self.every < 1 else self.every), 1)

    def _target(self, name: str, layer: QuantizedMatrix) -> Tensor:
        """`Z - U`, where the weights are."""
        return (self.projected[name] - self.dual[name]).to(layer.weight.device)

    @torch.no_grad()
    def _project(self, model: nn.Module) -> None:
        for name, layer in _masked(model):
            weight = _weight(layer)
            dual = self.dual[name].to(weight.device)
            moved = weight + dual
            self.projected[name] = moved * layer.program.mask.choose(moved)
            self.dual[name] = dual + (weight - self.projected[name])


def _weight(layer: QuantizedMatrix) -> Tensor:
    """The float weight with what its mask would drop, `(out, in)` float32, differentiable."""
    return layer.float_weight(masked=False)


def _masked(model: nn.Module) -> Iterator[tuple[str, QuantizedMatrix]]:
    """Name and layer of every matrix whose mask may be chosen anew."""
    for name, layer in matrices(model):
        if layer.program.mask is not None and not layer.program.mask.locked:
            yield name, layer
