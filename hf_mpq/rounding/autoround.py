"""AutoRound: signed gradient descent on how each weight is rounded, block by block."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..nn import MPQLinear
from ..nn.bfloat16 import bf16_products
from ..nn.held import held_weights, using_weights
from ..nn.running import evaluating
from .base import ROUNDERS, Rounder
from .block_error import block_error, draw_calls, part_size, sequences_of, split_batches
from .checks import check_decided, check_examples, check_fixed_grids
from .grids import can_round
from .sign_rounding import SignRounding
from .walk import BlockStep, walk_blocks

WALKS = 3.0
"""Forward passes that walking through both models takes."""
CHECKS = 2
"""How often the error on the held sample is looked at in each block."""
JUDGED = 128
"""Sequences on which a block's error is compared with that at its start."""


@ROUNDERS.register("autoround")
class AutoRounder(Rounder):
    """Learns a shift of each weight before rounding and a factor of each scale, so that each encoder block gives what
    the float block gives, behind the blocks done before (Cheng et al., "SignRound", EMNLP 2024 Findings).

    Differences from the paper: factors multiply the scanned scales and lie in 0.5 to 1.5 (the paper's multiply the
    largest weight and lie in 0 to 1); the iterate that is kept is the best on a fixed sample of the examples, looked at
    half-way and at the end (the paper's: the best loss of a training batch). A block whose error over other examples is
    no smaller than at its start keeps what it had. Matrices outside blocks and tables stay at nearest rounding.

    Args:
        iterations: steps in each block; at 200 the paper's default.
        batch_size: sequences in a step, the paper's is 8; None: as many as have 256 tokens, from 4 to a whole batch.
        lr: first step size, falling to 0 linearly; None is the paper's `1 / iterations`.
        learn_scales: also learn the factors of scales.
        sample: sequences in the fixed sample.
        seed: of the batches.
        bf16: products in bfloat16, but for what the float model gives; None where a CPU is made for them.
        progress: show a progress bar.
    """

    def __init__(
        self,
        iterations: int = 200,
        batch_size: int | None = None,
        lr: float | None = None,
        learn_scales: bool = True,
        sample: int = 64,
        seed: int = 0,
        bf16: bool | None = None,
        progress: bool = False,
    ):
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {iterations}")
        self.iterations, self.batch_size, self.sample, self.seed = iterations, batch_size, sample, seed
        self.steps = iterations
        self.lr = 1 / iterations if lr is None else lr
        self.learn_scales, self.bf16, self.progress = learn_scales, bf16, progress

    def round(self, model: nn.Module, reference: nn.Module, batches: Sequence[Mapping]) -> None:
        check_examples(batches)
        check_decided(model)
        check_fixed_grids(model)
        generator = torch.Generator().manual_seed(self.seed)
        parts = split_batches(batches, self.batch_size, generator)
        with evaluating(model, reference), bf16_products(model, self.bf16):
            for step in walk_blocks(model, reference, parts, "rounding", self.progress):
                self._round_block(step, generator)

    def _round_block(self, step: BlockStep, generator: torch.Generator) -> None:
        layers = [m for m in step.block.modules() if isinstance(m, MPQLinear) and can_round(m)]
        if not layers or not len(step.calls):
            return
        judged = draw_calls(step.calls, JUDGED, generator)
        with held_weights(step.block):
            before = self._error(step, judged)
        learned = [SignRounding(layer) for layer in layers]
        self._learn(step, learned, generator)
        if self._error_of(step, learned, judged) < before:
            for one in learned:
                one.write()

    def _learn(self, step: BlockStep, learned: list[SignRounding], generator: torch.Generator) -> None:
        sample = draw_calls(step.calls, self.sample, generator)
        best, states = self._error_of(step, learned, sample), [one.state() for one in learned]
        interval = max(1, self.iterations // CHECKS)
        for iteration in range(self.iterations):
            calls = draw_calls(step.calls, self.batch_size or 1, generator)
            rate = self.lr * (1 - iteration / self.iterations)
            for one, gradient in zip(learned, self._gradients(step, learned, calls)):
                if gradient is not None:
                    one.move(gradient, rate, self.learn_scales)
            if (iteration + 1) % interval == 0 or iteration + 1 == self.iterations:
                error = self._error_of(step, learned, sample)
                if error < best:
                    best, states = error, [one.state() for one in learned]
        for one, state in zip(learned, states):
            one.load(state)

    def _gradients(self, step: BlockStep, learned: list[SignRounding], calls: Sequence[int]) -> Sequence[Tensor | None]:
        """Of the error on some calls, in every weight as it is learned by now; None for one that is not read."""
        weights = [one().requires_grad_() for one in learned]
        with torch.enable_grad(), using_weights(_given(learned, weights)):
            return torch.autograd.grad(block_error(step, calls, step.calls.hidden), weights, allow_unused=True)

    @torch.no_grad()
    def _error_of(self, step: BlockStep, learned: list[SignRounding], calls: Sequence[int]) -> float:
        """With the weights as they are learned by now, each computed once."""
        with using_weights(_given(learned, [one() for one in learned])):
            return self._error(step, calls)

    @torch.no_grad()
    def _error(self, step: BlockStep, calls: Sequence[int]) -> float:
        return float(block_error(step, calls, step.calls.hidden))

    def forward_passes(self, model: nn.Module, batches: Sequence[Mapping]) -> float:
        """A step is three passes of a part of a batch. Two models are walked through, one of them in float32, and
        errors looked at."""
        rows = [sequences_of(batch) for batch in batches]
        each = max(sum(rows) / len(rows), 1)
        parts = sum(-(-count // (self.batch_size or part_size(batch))) for count, batch in zip(rows, batches))
        looked_at = 2 * min(sum(rows), JUDGED) + (CHECKS + 1) * min(sum(rows), self.sample)
        return WALKS * len(batches) + looked_at / each + 3.0 * self.iterations * len(batches) / parts


def _given(learned: list[SignRounding], weights: list[Tensor]) -> dict[MPQLinear, Callable[[], Tensor]]:
    """What each layer is to use."""
    return {one.layer: lambda weight=weight: weight for one, weight in zip(learned, weights)}
