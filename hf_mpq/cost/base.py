"""The contract of every cost model."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
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

    @property
    def what(self) -> str:
        """What it counts in a word, which several limits of one model are told apart by."""
        return self.unit

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
    def table(self, name: str, live_columns: int | None = None, input_bits: int | None = None) -> Tensor:
        """What each choice adds for each sub-group of the matrix `name` taken alone: `(groups, candidates)` float64.

        Left out is whatever depends on other sub-groups: maps, biases, and what pruned rows save in other matrices.

        Args:
            live_columns: input columns that are still read; None means all of them.
            input_bits: that the weights are multiplied with; None means those of the spec, while they are open their
                highest.
        """

    def input_table(self, name: str, bits: Tensor, live_columns: int | None = None) -> Tensor:
        """What each candidate of the input of `name` adds over the lowest: `(candidates,)` float64.

        Args:
            bits: of the sub-groups, `(groups,)`, all of them candidates.
            live_columns: as of `table`.
        """
        spec = self.space.weights[name]
        chosen = torch.searchsorted(torch.tensor(spec.candidates), bits).unsqueeze(1)
        tables = [self.table(name, live_columns, one) for one in spec.activation.candidates]
        sums = torch.stack([table.gather(1, chosen).sum() for table in tables])
        return sums - sums[0]
