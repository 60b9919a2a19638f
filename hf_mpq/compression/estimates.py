"""How long compressing without training will take, and how long it took."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from ..core import MethodSpec, PrecisionSpace, say
from ..core.progress import readable
from ..core.stopwatch import seconds as seconds_on
from ..nn.bfloat16 import bf16_products
from ..nn.running import evaluating, forward_inputs
from ..rounding.base import Rounder
from ..search.allocators.base import Allocator
from ..search.scorers.base import Scorer

SCAN_SECONDS = 1e-7
"""Scanning the scales of one weight at one precision, about, on a CPU core or two."""
STEP_SECONDS = 1.2e-8
"""A step of a rounder that learns, for each weight, without its products, about."""
TIMED_PASSES, TIMED_SECONDS = 20, 1.0
"""Forward passes are timed up to so many, or so long."""
WRONG = 1.25
"""Where scoring took so many times as long as was said, or as short, it is said anew how long the rest takes."""
SLOW_SECONDS = 30.0
"""Where rounding takes longer, something quicker is named."""
BIAS_PASSES = 16
"""Forward passes of every batch that correcting the biases takes, about."""


class Estimates:
    """Mixin of what compresses without training: seconds of each phase, before and after."""

    model: nn.Module
    batches: Sequence[Mapping]
    choice: MethodSpec
    space: PrecisionSpace
    progress: bool
    open: bool
    uses_scores: bool
    evaluate: Callable[[nn.Module], float] | None
    scorer: Scorer
    allocator: Allocator
    rounder: Rounder
    seconds: dict[str, float]
    _promised: dict[str, float]
    _evaluation_seconds: float
    reference: Callable[[], float]

    def estimate(self, models: int = 1, judged: int = 0) -> float:
        """About how many seconds it will take, in all; as of `phases`."""
        return sum(self.phases(models, judged).values())

    def phases(self, models: int = 1, judged: int = 0) -> dict[str, float]:
        """About how many seconds each phase will take, from one timed forward pass and, where it is called, one
        `evaluate`.

        Args:
            models: that are allocated and built.
            judged: how many of them `evaluate` scores.
        """
        scored, others = (self._scan_seconds(opened) for opened in (True, False))  # what scores scanned is known
        seconds = {"scoring": 0.0, "quantization": scored + others, "rounding": 0.0}
        if self.uses_scores:
            seconds |= {"scoring": scored, "quantization": others}
        judged += models * self.allocator.evaluation_count(self.space) if self.open else 0
        if judged and self.evaluate is not None:
            self.reference()
            seconds["measuring"] = judged * self._evaluation_seconds
        if not self.batches:
            return seconds
        count, each = len(self.batches), self._forward_seconds()
        if self.uses_scores:
            seconds["scoring"] += each * self.scorer.forward_passes(self.space, count)
        passes = self.rounder.forward_passes(self.model, self.batches)
        passes += BIAS_PASSES * count * self.choice.bias_correction
        weights = sum(sum(spec.layout.numel) for spec in self.space.weights.values())
        learning = STEP_SECONDS * weights * self.rounder.steps
        seconds["rounding"] = models * (each * passes + learning)
        if judged and self.evaluate is None:
            seconds["measuring"] = each * (judged + 1) * count  # the float model gives its outputs once
        return seconds

    def _scan_seconds(self, opened: bool) -> float:
        """Of the matrices that have several candidates, or of those that have one."""
        specs = (spec for spec in self.space.weights.values() if (len(spec.candidates) > 1) == opened)
        return SCAN_SECONDS * sum(sum(spec.layout.numel) * len(spec.candidates) for spec in specs)

    @torch.no_grad()
    def _forward_seconds(self) -> float:
        """Of one batch; the mean of several passes, for what else a machine does comes in bursts."""
        inputs = forward_inputs(self.model, self.batches[len(self.batches) // 2])
        with evaluating(self.model), bf16_products(self.model):
            self.model(**inputs)  # the first pass is slower
            start, passes = self._now(), 0
            while passes < TIMED_PASSES and (not passes or self._now() - start < TIMED_SECONDS):
                self.model(**inputs)
                passes += 1
            return (self._now() - start) / passes

    def _now(self) -> float:
        """Seconds; on a GPU once it has done what it was told."""
        return seconds_on(next(self.model.parameters()).device)

    @contextmanager
    def _timed(self, part: str):
        start = self._now()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + self._now() - start

    def announce(self, models: int, judged: int = 0) -> None:
        """Print how long it will take, phase by phase, and what would be quicker; as of `phases`."""
        if not self.progress:
            return
        seconds = self._promised = self.phases(models, judged)
        total, examples = sum(seconds.values()), sum(len(batch["input_ids"]) for batch in self.batches)
        parts = ", ".join(f"{part} {readable(spent)}" for part, spent in seconds.items() if spent >= 1)
        say(
            f"compress: about {readable(total)} for {models} model(s) from {examples} examples"
            f"{f': {parts}' if parts else ''} (scores: {self.choice.scorer}, allocation: {self.choice.allocator}, "
            f"rounding: {self.choice.rounding})"
        )
        if seconds["rounding"] > SLOW_SECONDS:
            say(
                f"compress: rounding 'nearest' would be quicker, about {readable(total - seconds['rounding'])} in all; "
                "fewer or shorter examples are, too"
            )

    def _correct(self, part: str) -> None:
        """Once a part is done that took another time than was said: print how long the others will take then."""
        promised = self._promised.pop(part, 0.0)
        factor, left = self.seconds[part] / max(promised, 1e-9), sum(self._promised.values())
        if promised and left * factor > SLOW_SECONDS and not 1 / WRONG < factor < WRONG:
            say(f"compress: {part} took {readable(self.seconds[part])}: about {readable(left * factor)} more")

    def summarise(self) -> None:
        """Print how long each part took."""
        if self.progress:
            parts = ", ".join(f"{part} {readable(seconds)}" for part, seconds in self.seconds.items())
            say(f"compress: {parts}")
