"""The path that a pass takes, where it is not written out but named."""

from dataclasses import replace

from torch import nn

from ...nn.paths import drawn_path, highest_path
from ...search.strategies import DRAWN, HIGHEST, Pass, Progress
from ...search.strategies.seeding import seeded

_DRAWS = 3
"""Keeps these random numbers apart from all others of a stage."""


def with_path(one: Pass, number: int, student: nn.Module, progress: Progress) -> Pass:
    """The pass with its path written out. What is drawn depends on the seed, the step and the number of the pass alone:
    it is the same in every process and micro-batch, and goes on after a resume.

    Args:
        number: of the pass in its step, from 0.

    Raises:
        ValueError: for a path by another name.
    """
    if not isinstance(one.path, str):
        return one
    if one.path not in (HIGHEST, DRAWN):
        raise ValueError(
            f"pass {one.name!r}: a path is positions by matrix, {HIGHEST!r} or {DRAWN!r}; got {one.path!r}"
        )
    if one.path == HIGHEST:
        return replace(one, path=highest_path(student))
    return replace(one, path=drawn_path(student, seeded(progress.seed, progress.step, number, _DRAWS)))
