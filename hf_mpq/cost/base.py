"""The contract of every cost model."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from ..core import Assignment, PrecisionSpace, Registry, Usage
from .exact import ExactMatrix, exact_matrices

COSTS: Registry[type["CostModel"]] = Registry("cost model")


class CostModel(ABC):
    """What an assignment of one precision space costs.

    Attributes:
        unit: what the numbers count, such as `"bytes"`.
    """

    unit: ClassVar[str]

    def __init__(self, space: PrecisionSpace):
        self.space = space

    def of(self, assignment: Assignment) -> float:
        """The exact cost, in `unit`; raises ValueError when the assignment does not fit the space."""
        return self.of_matrices(exact_matrices(self.space, assignment))

    @abstractmethod
    def of_matrices(self, matrices: Mapping[str, ExactMatrix]) -> float:
        """The exact cost of an assignment that is known matrix by matrix."""

    @abstractmethod
    def expected(self, usages: Mapping[str, Usage]) -> Tensor:
        """The cost of what the gates expect to use, a differentiable scalar in `unit`.

        Args:
            usages: by matrix name; a matrix that is not named has its fixed bits.
        """

    @abstractmethod
    def table(self, name: str, live_columns: int | None = None) -> Tensor:
        """What each choice adds for each sub-group of the matrix `name` taken alone: `(groups, candidates)` float64.

        Left out is whatever depends on other sub-groups: maps, biases, and what pruned rows save in other matrices.

        Args:
            live_columns: input columns that are still read; None means all of them.
        """
