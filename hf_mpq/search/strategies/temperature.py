"""Schedules of the gates' temperature."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, exp, log
from typing import Any

from .base import Progress


@dataclass(frozen=True)
class Temperature:
    """An exponentially falling temperature.

    By epochs it is `start exp(-decay max(0, epoch - wait))` (AQ-BERT), constant within an epoch; by steps it goes from
    `start` to `end` evenly in the logarithm.

    Attributes:
        start: before it falls.
        end: at the end of the stage, by epochs in its last epoch; None where `decay` is given.
        decay: eta, per epoch; None takes what leads to `end`.
        wait: N0, epochs before it falls; None is none, or the warm-up of a strategy that has one.
        by_epoch: whether it changes once per epoch.

    Raises:
        ValueError: for temperatures that are not above zero.
    """

    start: float = 1.0
    end: float | None = None
    decay: float | None = None
    wait: int | None = None
    by_epoch: bool = False

    def __post_init__(self):
        if self.start <= 0 or (self.end is not None and self.end <= 0):
            raise ValueError(f"temperatures must be above zero, got {self.start} and {self.end}")
        if self.end is not None and self.decay is not None:
            raise ValueError("give the temperature either an end or a decay per epoch, not both")

    @classmethod
    def of(cls, words: "Temperature | Mapping[str, Any] | Sequence[float] | float") -> "Temperature":
        """From options: a number that stays, `(start, end)` by steps, `{"start": t0, "decay": eta, "wait": N0}`."""
        if isinstance(words, cls):
            return words
        if isinstance(words, Mapping):
            by_epoch = words.get("decay") is not None
            return cls(**{"by_epoch": by_epoch, **words})
        return cls(words) if isinstance(words, int | float) else cls(*words)

    def at(self, progress: Progress) -> float:
        """The temperature of a step."""
        if not self.by_epoch:
            return self.start if self.end is None else self.start * (self.end / self.start) ** progress.fraction
        return self.start * exp(-self._rate(progress) * max(0, progress.epoch - (self.wait or 0)))

    def _rate(self, progress: Progress) -> float:
        if self.decay is not None or self.end is None:
            return self.decay or 0.0
        return log(self.start / self.end) / max(1, epochs(progress) - 1 - (self.wait or 0))


def epochs(progress: Progress) -> int:
    """Epochs of the stage, begun ones included."""
    return ceil(progress.steps / max(progress.steps_per_epoch, 1))
